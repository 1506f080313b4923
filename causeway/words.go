package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tidy makes commands that only have others below them refuse a word that is none of
// those, and shows flags in the order in which they are declared, as their texts refer to
// each other.
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
	for _, c := range cmd.Commands() {
		tidy(c)
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
