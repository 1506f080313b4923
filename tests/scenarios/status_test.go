package scenarios

import (
	"context"
	"errors"
	"os/exec"
)

// showStatus waits until every pattern is found in the output of causeway status;
// showServices does so for causeway services.
func showStatus(ctx context.Context, c *call) error { return c.commandLine(ctx, "status") }

func showServices(ctx context.Context, c *call) error { return c.commandLine(ctx, "services") }

func (c *call) commandLine(ctx context.Context, args ...string) error {
	cluster, err := c.cluster(c.args[0])
	if err != nil {
		return err
	}
	return c.matches(ctx, c.args[1:], func() (string, error) {
		out, err := cluster.Causeway(ctx, args...)
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 1 && len(out) > 0 {
			err = nil // something is not ready, and the output says what
		}
		return string(out), err
	})
}

// metric waits until every pattern is found among a daemon's metrics.
func metric(ctx context.Context, c *call) error {
	list, err := c.processes(c.args[:1])
	if err != nil {
		return err
	}
	return c.matches(ctx, c.args[1:], func() (string, error) {
		out, err := list[0].Metrics(ctx)
		return string(out), err
	})
}
