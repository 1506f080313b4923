package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// configFlag names the flag by which a config file is given.
const configFlag = "config"

// ParseFlags parses args into flags, and fills those that args do not set from
// the file that --config names, if any. The file is a YAML mapping from flag
// names to values; a flag given in args wins. Errors are one line; those of the
// file begin with file and line. It returns pflag.ErrHelp for --help.
func ParseFlags(flags *pflag.FlagSet, args []string) error {
	path := flags.String(configFlag, "", "YAML `file` whose keys are the names of these flags; a flag given wins")
	flags.Usage = func() {}
	flags.SetOutput(io.Discard)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: all settings are flags", flags.Arg(0))
	}
	if *path == "" {
		return nil
	}
	return readConfig(flags, *path)
}

func readConfig(flags *pflag.FlagSet, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("--%s: %w", configFlag, err)
	}
	defer file.Close() // read only: nothing to lose
	var document yaml.Node
	decoder := yaml.NewDecoder(file)
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF): // empty, or comments alone
		return nil
	case err != nil:
		return yamlError(path, err)
	}
	var second yaml.Node
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			return yamlError(path, err)
		}
		return fmt.Errorf("%s:%d: a second document: settings stand in one", path, second.Line)
	}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil
	}
	if root.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: a mapping of flag names to values is expected", path, root.Line)
	}
	return applyConfig(flags, path, root)
}

// yamlError names the line as the rest of the errors do: the YAML library's
// text is "yaml: line 3: ...".
func yamlError(path string, err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if line, message, ok := strings.Cut(rest, ": "); ok {
			return fmt.Errorf("%s:%s: %s", path, line, message)
		}
	}
	return fmt.Errorf("%s: %s", path, text)
}

func applyConfig(flags *pflag.FlagSet, path string, root *yaml.Node) error {
	given := map[string]bool{}
	flags.Visit(func(f *pflag.Flag) { given[f.Name] = true })
	seen := map[string]int{}
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		name := key.Value
		flag := flags.Lookup(name)
		if key.Kind != yaml.ScalarNode || flag == nil || name == configFlag {
			return fmt.Errorf("%s:%d: no setting is called %q", path, key.Line, name)
		}
		if line, again := seen[name]; again {
			return fmt.Errorf("%s:%d: %s is set in line %d already", path, key.Line, name, line)
		}
		seen[name] = key.Line
		// A value is checked even when a flag overrides it: an error must not
		// wait for the day the flag goes.
		if err := applyValue(flag, value, given[name]); err != nil {
			return fmt.Errorf("%s:%d: %s: %w", path, value.Line, name, err)
		}
		if given[name] {
			continue
		}
		flag.Changed = true
	}
	return nil
}

// applyValue sets flag to value, or only checks it when the flag was given on
// the command line.
func applyValue(flag *pflag.Flag, value *yaml.Node, checkOnly bool) error {
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	list, isList := flag.Value.(pflag.SliceValue)
	switch {
	case value.Kind == yaml.ScalarNode && value.Tag != "!!null":
		return setValue(flag, checkOnly, func() error { return flag.Value.Set(value.Value) }, value.Value)
	case value.Kind == yaml.SequenceNode && isList:
		items := make([]string, 0, len(value.Content))
		for _, item := range value.Content {
			if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
				return fmt.Errorf("line %d is not a single value", item.Line)
			}
			items = append(items, item.Value)
		}
		return setValue(flag, checkOnly, func() error { return list.Replace(items) }, strings.Join(items, ","))
	}
	return fmt.Errorf("%s is expected", kindOf(flag))
}

// setValue calls set, which gives flag the value that text shows, and brings
// the old value back when checkOnly is set.
func setValue(flag *pflag.Flag, checkOnly bool, set func() error, text string) error {
	list, isList := flag.Value.(pflag.SliceValue)
	old, oldItems := flag.Value.String(), []string(nil)
	if isList {
		oldItems = list.GetSlice()
	}
	if err := set(); err != nil {
		return fmt.Errorf("%q is not %s", text, kindOf(flag))
	}
	switch {
	case !checkOnly:
		return nil
	case isList:
		return list.Replace(oldItems)
	}
	return flag.Value.Set(old)
}

// kindOf says in words what a flag takes.
func kindOf(flag *pflag.Flag) string {
	switch kind := flag.Value.Type(); kind {
	case "bool":
		return "true or false"
	case "int", "int32", "int64":
		return "a whole number"
	case "uint", "uint8", "uint16", "uint32", "uint64":
		return "a whole number of 0 or more in its range"
	case "duration":
		return `a duration such as "30s"`
	case "stringSlice", "stringArray":
		return "a value or a list of values"
	default:
		return "a value of type " + kind
	}
}
