package datapath

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// FindCgroupRoot returns where the root of the host's cgroup v2 hierarchy is
// mounted. On a node that is itself a container, as kind's are, that is the
// highest one which the node has. The error wraps ErrCgroup.
func FindCgroupRoot() (string, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find the cgroup v2 root: %w", err)
	}
	defer file.Close() // read only
	mounts, err := cgroupMounts(file)
	if err != nil {
		return "", err
	}
	var dirs []string
	for _, mount := range mounts {
		if isTrueRoot(mount.dir) {
			return mount.dir, nil
		}
		dirs = append(dirs, mount.dir)
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the cgroup v2 root: %w", err)
	}
	for _, mount := range mounts {
		if mount.above(ownCgroup(string(self))) {
			return mount.dir, nil
		}
	}
	if len(mounts) > 0 {
		return "", fmt.Errorf("%s is this container's own part of the hierarchy: mount the host's and name it with --cgroup-root: %w", strings.Join(dirs, ", "), ErrCgroup)
	}
	return "", fmt.Errorf("/proc/self/mountinfo shows none: mount one (mount -t cgroup2 cgroup2 DIR) and name it with --cgroup-root: %w", ErrCgroup)
}

// cgroupMount is a mount point of a cgroup v2 hierarchy; root is which folder of
// it is mounted, as this process sees it from the top of its cgroup namespace.
type cgroupMount struct{ dir, root string }

// above reports whether the mount holds more than this process' own part: a
// container that has a view of its own is at the top of it.
func (m cgroupMount) above(own string) bool {
	return m.root != "/" || own != "" && own != "/"
}

// ownCgroup returns the v2 path in a /proc/pid/cgroup, "" for none
// (cgroups(7)).
func ownCgroup(text string) string {
	for line := range strings.Lines(text) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(path, "\n")
		}
	}
	return ""
}

// cgroupMounts reads mountinfo (proc_pid_mountinfo(5)) and returns the mounts
// of a whole cgroup v2 hierarchy, as far as this process' cgroup namespace lets
// it see: what is above its own top, as the host's hierarchy that a container is
// given, is shown as /../.. (cgroup_namespaces(7)).
func cgroupMounts(r io.Reader) ([]cgroupMount, error) {
	var mounts []cgroupMount
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		for i := 6; i+1 < len(fields); i++ {
			if fields[i] != "-" { // ends the optional fields
				continue
			}
			if fields[i+1] == "cgroup2" && strings.Trim(fields[3], "/.") == "" {
				mounts = append(mounts, cgroupMount{dir: unescape(fields[4]), root: fields[3]})
			}
			break
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read mountinfo: %w", err)
	}
	return mounts, nil
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// isTrueRoot reports whether dir is the root of the hierarchy: every other
// cgroup has a type. A container's private view has its own cgroup at the top.
func isTrueRoot(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "cgroup.type"))
	return errors.Is(err, os.ErrNotExist)
}

// openCgroup opens a cgroup v2 folder. The error wraps ErrCgroup.
func openCgroup(dir string) (*os.File, error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCgroup, err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil, errors.Join(fmt.Errorf("%s is not a cgroup v2 folder: %w", dir, ErrCgroup), err, file.Close())
	}
	return file, nil
}
