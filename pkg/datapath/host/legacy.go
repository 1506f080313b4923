package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The old iptables has tables of its own, beside nftables, that only its own
// program can change.

// legacy is one family of it.
type legacy struct {
	v6      bool
	program string
	tables  string // the file that lists which tables are in use
}

func legacies() []legacy {
	return []legacy{
		{false, "iptables-legacy", "/proc/thread-self/net/ip_tables_names"},
		{true, "ip6tables-legacy", "/proc/thread-self/net/ip6_tables_names"},
	}
}

// legacyRules is forwardRules for the old iptables, where it has a filter table.
// It starts programs, so it does not look at each pass. What goes wrong there is
// told and tried again; all else goes on without it.
func (w *work) legacyRules() {
	h := w.host
	if h.settled && time.Since(h.legacyLook) < compareInterval {
		w.problems = append(w.problems, h.legacyProblems...)
		return
	}
	h.legacyProblems = nil
	err := w.kernel.inside(func() error {
		for _, family := range legacies() {
			if err := w.legacyFamily(family); err != nil {
				h.legacyProblems = append(h.legacyProblems, w.legacyProblem(family, err))
			}
		}
		return nil
	})
	if err != nil {
		h.legacyProblems = append(h.legacyProblems, w.legacyProblem(legacies()[0], err))
	}
	h.legacyLook = time.Now()
	w.problems = append(w.problems, h.legacyProblems...)
}

func (w *work) legacyProblem(family legacy, err error) Problem {
	p := Problem{
		What:  "the old iptables is in use and cannot be looked into or changed; where it forwards nothing by policy, pods reach no peer",
		Where: fmt.Sprintf("%s FORWARD: %s", family.program, err),
		Do:    fmt.Sprintf("if its policy is DROP: %s -A FORWARD -i %s -j ACCEPT, and the same with -o", family.program, w.config.Device),
	}
	if errors.Is(err, exec.ErrNotFound) {
		p.What = "the old iptables is in use and cannot be looked into, as its program is not here; where it forwards nothing by policy, pods reach no peer"
		p.Where = family.program + " FORWARD"
	}
	return p
}

func (w *work) legacyFamily(family legacy) error {
	if used, err := family.used(); err != nil || !used || !w.hasFamily(family.v6) {
		return err
	}
	policy, ours, err := family.look()
	if err != nil {
		return err
	}
	wanted := legacyAccepts(w.config.Device)
	if policy != "DROP" {
		wanted = nil
	}
	if slices.Equal(ours, wanted) {
		return nil
	}
	if err := family.remove(ours); err != nil {
		return err
	}
	for _, rule := range wanted {
		if _, err := family.run(append([]string{"-A"}, strings.Fields(rule)...)...); err != nil {
			return err
		}
	}
	w.changed(ForwardRule, family.program+" FORWARD")
	return nil
}

// legacyAccepts are our rules as the program shows them. Its comments need a
// module, so the mark is one word.
func legacyAccepts(device string) []string {
	var rules []string
	for _, way := range []string{"-i", "-o"} {
		rules = append(rules, fmt.Sprintf("FORWARD %s %s -m comment --comment %s -j ACCEPT", way, device, Mark))
	}
	return rules
}

// used reports whether the family has a filter table. To ask the program would
// make one.
func (l *legacy) used() (bool, error) {
	names, err := os.ReadFile(l.tables)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list tables of %s: %w", l.program, err)
	}
	return slices.Contains(strings.Fields(string(names)), "filter"), nil
}

// look returns the policy of FORWARD and our rules in it.
func (l *legacy) look() (policy string, ours []string, err error) {
	out, err := l.run("-S", "FORWARD")
	if err != nil {
		return "", nil, err
	}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(line, "-P FORWARD "); ok {
			policy = text
		}
		if text, ok := strings.CutPrefix(line, "-A "); ok && strings.Contains(text, "--comment "+Mark+" ") {
			ours = append(ours, text)
		}
	}
	return policy, ours, nil
}

func (l *legacy) remove(rules []string) error {
	for _, rule := range rules {
		if _, err := l.run(append([]string{"-D"}, strings.Fields(rule)...)...); err != nil {
			return err
		}
	}
	return nil
}

// run starts the program, which waits for its lock.
func (l *legacy) run(args ...string) (string, error) {
	command := exec.Command(l.program, append([]string{"-w", "5"}, args...)...)
	var out, wrong bytes.Buffer
	command.Stdout, command.Stderr = &out, &wrong
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", l.program, strings.Join(args, " "), err, strings.TrimSpace(wrong.String()))
	}
	return out.String(), nil
}

// eachLegacy calls onRules for our rules in the old iptables, of each family
// whatever became of the other.
func (k *kernel) eachLegacy(onRules func(*legacy, []string) error) error {
	return k.inside(func() error {
		var errs []error
		for _, family := range legacies() {
			used, err := family.used()
			if err != nil || !used {
				errs = append(errs, err)
				continue
			}
			_, ours, err := family.look()
			if err == nil && len(ours) > 0 {
				err = onRules(&family, ours)
			}
			if !errors.Is(err, exec.ErrNotFound) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}

// inside runs fn in the kernel's network namespace: programs that it starts are
// there, and /proc/thread-self shows it.
func (k *kernel) inside(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		here, err := os.Readlink("/proc/thread-self/ns/net")
		switch {
		case err != nil:
			done <- err
		case here == k.namespaceID:
			runtime.UnlockOSThread()
			done <- fn()
		default:
			// The thread ends with the goroutine, or, if it is the first one, rests:
			// its namespace is put back, as others see it as the process'.
			done <- k.elsewhere(fn)
		}
	}()
	return <-done
}

func (k *kernel) elsewhere(fn func() error) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close() // read only
	if err := unix.Setns(int(k.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return errors.Join(fn(), unix.Setns(int(home.Fd()), unix.CLONE_NEWNET))
}
