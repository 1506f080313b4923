package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tidy makes commands that only have others below them refuse a word that is none of
// those, and shows flags in the order in which they are declared, as their texts refer to
// each other. Where there are too many words or too few, the error says how it is written.
func tidy(cmd *cobra.Command) {
	cmd.Flags().SortFlags, cmd.PersistentFlags().SortFlags = false, false
	if cmd.HasParent() && cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args, cmd.RunE = cobra.ArbitraryArgs, func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q of %q: see %s --help", args[0], cmd.CommandPath(), cmd.CommandPath())
			}
			return cmd.Help()
		}
	}
	if count := cmd.Args; count != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := count(cmd, args); err != nil {
				return fmt.Errorf("%w; it is: %s", err, cmd.UseLine())
			}
			return nil
		}
	}
	for _, c := range cmd.Commands() {
		tidy(c)
	}
}

// newHelpCommand is cobra's, but that a word that is no command is an error.
func newHelpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND...]",
		Short: "Help about any command",
		RunE: func(_ *cobra.Command, args []string) error {
			found, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return fmt.Errorf("there is no command %q to help with: see %s --help", strings.Join(args, " "), root.CommandPath())
			}
			return found.Help()
		},
	}
}

// answered is what an API server says for an error, and where there is none that said
// anything, that it was asked.
func answered(err error) error {
	said := status.Convert(err)
	switch said.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown:
		return fmt.Errorf("ask the API server: %s", said.Message())
	default:
		return plain(err)
	}
}
