package stall

import (
	"fmt"
	"io"
	"net"
	"os"
)

// proxy passes on what connections to one address say to another, until it is killed.
func proxy(listen, target string) int {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for {
		from, err := l.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		go func() {
			defer func() { _ = from.Close() }()
			to, err := net.Dial("tcp", target)
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(to, from)
				_ = to.Close()
			}()
			_, _ = io.Copy(from, to)
		}()
	}
}
