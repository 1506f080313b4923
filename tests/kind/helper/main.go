// Helper is two small programs of the nodes, told apart by the name by which it
// is called.
//
// As runc it is in front of the real one, /usr/sbin/runc: it asks only for
// what this machine may give. Where CAP_SYS_RESOURCE is missing, runc gives up
// on any container that asks for it, for a limit above its own or for an OOM score
// below; and Docker before 23 does not know the newest capabilities, so that not
// even a privileged container of it could load eBPF programs with CAP_BPF.
//
// As pause it holds the namespaces of a pod.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// real is where Debian's package has runc.
const real = "/usr/sbin/runc"

func main() {
	if filepath.Base(os.Args[0]) == "pause" {
		end := make(chan os.Signal, 1)
		signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
		<-end
		return
	}
	if err := wrap(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "runc:", err)
		os.Exit(1)
	}
}

// wrap corrects what runc is about to read and becomes runc.
func wrap(args []string) error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	bounding, err := boundingSet(string(status))
	if err != nil {
		return err
	}
	bundle, process := named(args)
	if bundle != "" {
		err = rewrite(filepath.Join(bundle, "config.json"), func(spec map[string]any) {
			if process, ok := spec["process"].(map[string]any); ok {
				correct(process, bounding)
			}
		})
	}
	if err == nil && process != "" {
		err = rewrite(process, func(process map[string]any) { correct(process, bounding) })
	}
	if err != nil {
		return err
	}
	return syscall.Exec(real, append([]string{"runc"}, args...), os.Environ())
}

// named returns the folder and the file that the arguments name, "" for none.
func named(args []string) (bundle, process string) {
	for i := range len(args) - 1 {
		switch args[i] {
		case "--bundle", "-b":
			bundle = args[i+1]
		case "--process", "-p":
			process = args[i+1]
		}
	}
	return bundle, process
}

// rewrite changes a JSON file in place; one that is not there is runc's to complain of.
func rewrite(path string, change func(map[string]any)) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var object map[string]any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // limits are larger than a float64 holds
	if err := decoder.Decode(&object); err != nil {
		return fmt.Errorf("read %q: %w", path, err)
	}
	change(object)
	if text, err = json.Marshal(object); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// newest are the capabilities that a privileged container is to have although
// its engine has not heard of them.
func newest() []string { return []string{"CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"} }

// sysResource is the number and the name of the capability without which the
// limits below are refused.
const sysResource, sysResourceName = 24, "CAP_SYS_RESOURCE"

// correct changes an OCI process to what a bounding set allows.
func correct(process map[string]any, bounding uint64) {
	may := bounding&(1<<sysResource) != 0
	sets, _ := process["capabilities"].(map[string]any)
	for name, set := range sets {
		list, _ := set.([]any)
		if !may {
			list = slices.DeleteFunc(list, func(c any) bool { return c == sysResourceName })
		}
		if slices.Contains(list, any("CAP_SYS_ADMIN")) && slices.Contains(list, any("CAP_SYS_MODULE")) { // privileged
			for _, c := range newest() {
				if !slices.Contains(list, any(c)) {
					list = append(list, c)
				}
			}
		}
		sets[name] = list
	}
	if may {
		return
	}
	delete(process, "rlimits")
	if score, ok := process["oomScoreAdj"].(json.Number); ok && strings.HasPrefix(score.String(), "-") {
		process["oomScoreAdj"] = 0
	}
}

// boundingSet reads CapBnd of /proc/self/status.
func boundingSet(status string) (uint64, error) {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	return 0, errors.New("the kernel does not tell the bounding set of capabilities")
}
