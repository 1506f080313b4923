package kvstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/retry"
)

// maxSocketPath is what fits in a sockaddr_un with its terminating zero.
const maxSocketPath = 107

// lockWait is how long a start waits for a process that is just ending.
const lockWait = 2 * time.Second

// dataDir is a data directory that this process alone has.
type dataDir struct {
	path   string
	dir    *os.File // the directory itself, named in short socket paths
	lock   *os.File // flocked; the kernel unlocks it when the process dies
	socket string
}

// openDir makes the directory if needed and takes it for this process.
func openDir(ctx context.Context, path string) (*dataDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	lock, err := lockFile(ctx, filepath.Join(path, "lock"))
	if err != nil {
		return nil, fmt.Errorf("open data directory %q: %w", path, err)
	}
	dir, err := os.Open(path)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	return &dataDir{path: path, dir: dir, lock: lock, socket: socketPath(path, dir)}, nil
}

// socketPath is the address of the socket in the directory. Where the path is
// too long for an address it goes by the open directory, which this process
// (server and clients both) sees under /proc.
func socketPath(path string, dir *os.File) string {
	socket := filepath.Join(path, "etcd.sock")
	if len(socket) > maxSocketPath {
		socket = fmt.Sprintf("/proc/self/fd/%d/etcd.sock", dir.Fd())
	}
	return socket
}

// HoldDir takes a data directory, made when missing, for this process, which
// keeps its etcd elsewhere. It returns ErrDirInUse, wrapped, when another
// process has it.
func HoldDir(ctx context.Context, path string) (release func(), err error) {
	d, err := openDir(ctx, path)
	if err != nil {
		return nil, err
	}
	return d.close, nil
}

func (d *dataDir) close() {
	d.dir.Close()
	d.lock.Close()
}

// memberDir is where etcd keeps everything it has, and we the token.
func memberDir(dir string) string { return filepath.Join(dir, "member") }

// lockFile takes the lock, waiting a moment for a process that is just ending.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockWait); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %q: %w", path, err)
		}
		if time.Now().After(deadline) || !retry.Sleep(ctx, lockWait/40) {
			f.Close()
			return nil, ErrDirInUse
		}
	}
}

// listen opens the socket. The lock makes sure that an old one is nobody's.
func (d *dataDir) listen() (net.Listener, error) {
	if err := os.Remove(d.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(d.socket, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// setAside moves data without a log out of etcd's way, and says whether there
// was any. It is what a first start leaves that was killed halfway (then it is
// empty), or somebody who removed the log: etcd would serve the rest as if
// nothing was missing, and ignore the first writes.
func (d *dataDir) setAside() (to string, moved bool, err error) {
	member := memberDir(d.path)
	if wal.Exist(filepath.Join(member, "wal")) {
		return "", false, nil
	}
	if _, err := os.Stat(filepath.Join(member, "snap", "db")); errors.Is(err, os.ErrNotExist) {
		return "", false, nil
	}
	to = member + ".incomplete"
	if err := errors.Join(os.RemoveAll(to), os.Rename(member, to)); err != nil {
		return "", false, fmt.Errorf("set incomplete data aside: %w", err)
	}
	return to, true, nil
}

// token returns what makes this data different from any other: etcd derives
// the cluster id, by which readers know a store, from it. It lies with the
// data, so that it goes when the data goes, and stays through a start that
// was cut short.
func (d *dataDir) token() (string, error) {
	path := filepath.Join(memberDir(d.path), "token")
	text, err := os.ReadFile(path)
	if err == nil && len(text) > 0 {
		return string(text), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read cluster token: %w", err)
	}
	token := rand.Text()
	if err := os.MkdirAll(memberDir(d.path), 0o700); err != nil {
		return "", fmt.Errorf("write cluster token: %w", err)
	}
	if err := writeSynced(path, []byte(token)); err != nil {
		return "", fmt.Errorf("write cluster token: %w", err)
	}
	return token, nil
}

// writeSynced puts a file in place whole or not at all.
func writeSynced(path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
