package kubelab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// State is all that a control plane held at one moment. It goes with it.
type State struct{ dir string }

// Save keeps what is in etcd now, as a copy of its disk would; clients notice
// no more than a short halt.
func (p *ControlPlane) Save() (State, error) {
	dir, err := os.MkdirTemp(p.dir.path, "saved-")
	if err != nil {
		return State{}, err
	}
	if err := p.etcd.pause(); err != nil {
		return State{}, err
	}
	err = os.CopyFS(filepath.Join(dir, "etcd"), os.DirFS(p.path("etcd")))
	if err := errors.Join(err, p.etcd.signal(syscall.SIGCONT)); err != nil {
		return State{}, fmt.Errorf("save the state of etcd: %w", err)
	}
	return State{dir: dir}, nil
}

// Restore makes the control plane serve a state that was saved, as after a
// backup was put back: what was written since is gone and revisions go on from
// the old one. kube-apiserver and etcd crash for it; both run when it returns.
func (p *ControlPlane) Restore(ctx context.Context, state State) error {
	p.apiserver.kill()
	p.etcd.kill()
	if err := os.RemoveAll(p.path("etcd")); err != nil {
		return err
	}
	if err := os.CopyFS(p.path("etcd"), os.DirFS(filepath.Join(state.dir, "etcd"))); err != nil {
		return fmt.Errorf("restore the state of etcd: %w", err)
	}
	// It asks that nobody else can read its folder.
	if err := os.Chmod(p.path("etcd"), 0o700); err != nil {
		return err
	}
	if err := p.startEtcd(ctx); err != nil {
		return err
	}
	return p.StartAPIServer(ctx)
}

// Compact makes etcd forget all but the present revision. kube-apiserver still
// answers from what it remembers itself until it is started again; from then on,
// who wants to go on from an older revision gets 410 Gone.
func (p *ControlPlane) Compact(ctx context.Context) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{p.etcdURL()}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return fmt.Errorf("compact etcd: %w", err)
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	got, err := client.Get(ctx, "compact_rev_key") // any read tells the revision
	if err == nil {
		_, err = client.Compact(ctx, got.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err != nil {
		return fmt.Errorf("compact etcd: %w", err)
	}
	return nil
}
