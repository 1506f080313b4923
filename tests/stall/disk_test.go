package stall

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// diskScript mounts a file system of its own on a folder and freezes and thaws it
// as it is told. When it is told nothing more, also because the test was killed,
// it thaws and unmounts it: nobody could kill what waits for a frozen one.
const diskScript = `
truncate -s 1G "$1" && mkfs.ext4 -q -F "$1" && mount -o loop "$1" "$2" || exit 1
rm -f "$1"
chmod 700 "$2"
echo ready
while read -r word; do
	case $word in
	freeze) fsfreeze -f "$2" ;;
	thaw) fsfreeze -u "$2" ;;
	esac
	echo "$word $?"
done
fsfreeze -u "$2" 2>/dev/null
umount -l "$2"
`

// disk is a file system that can be frozen.
type disk struct {
	t       *testing.T
	words   io.WriteCloser
	answers *bufio.Reader
}

// newDisk puts a file system below a folder, which it makes, until the test ends.
func newDisk(t *testing.T, dir string) *disk {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", diskScript, "disk", filepath.Join(t.TempDir(), "image"), dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what ends the test at a terminal is not for it
	cmd.Stderr = t.Output()
	words, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &disk{t: t, words: words, answers: bufio.NewReader(answers)}
	t.Cleanup(func() {
		_ = words.Close()
		_ = cmd.Wait()
	})
	d.expect("ready")
	return d
}

func (d *disk) freeze() { d.tell("freeze") }
func (d *disk) thaw()   { d.tell("thaw") }

func (d *disk) tell(word string) {
	d.t.Helper()
	if _, err := fmt.Fprintln(d.words, word); err != nil {
		d.t.Fatal(err)
	}
	d.expect(word + " 0")
}

func (d *disk) expect(want string) {
	d.t.Helper()
	got, err := d.answers.ReadString('\n')
	if err != nil || got != want+"\n" {
		d.t.Fatalf("a file system that can be frozen (ext4 on a loop device): %q, %v; want %q", got, err, want)
	}
}
