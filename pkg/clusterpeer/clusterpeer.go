// Package clusterpeer makes peers of ClusterPeer resources, and says in their status
// how these stand.
//
// What a resource says is written as a peer file, so that everything that holds for
// those holds here: it is taken up at once, a file that was good stays in force while
// the next one is not, and what was read is there after a start without the Kubernetes
// API. Certificates come from Secrets; those renewed since are kept until the Secret
// changes.
package clusterpeer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/retry"
)

const (
	// relist is how long a change is waited for. Secrets, which are not followed, are
	// read again after it.
	relist = 30 * time.Second
	// pause is the least time between two listings.
	pause = 500 * time.Millisecond
	// firstRetry and lastRetry are how soon it is tried again that failed.
	firstRetry = 500 * time.Millisecond
	lastRetry  = 5 * time.Second
	// grace is how long the first listing is waited for by who asks Loaded, where none
	// was ever read.
	grace = 10 * time.Second
	// statusEvery is how often the status is looked at, and statusPause the least time
	// between two writes of one object's.
	statusEvery = time.Second
	statusPause = 5 * time.Second
)

// readMark is a file in the directory that says that it is what a listing said.
// Peers' files are not named so.
const readMark = ".read"

// API is the Kubernetes API; *kube.Client is one.
type API interface {
	ClusterPeers(ctx context.Context) (peers []kube.ClusterPeer, revision string, err error)
	AwaitClusterPeers(ctx context.Context, revision string, limit time.Duration) error
	PutClusterPeerStatus(ctx context.Context, name string, status *kube.ClusterPeerStatus) error
	Secret(ctx context.Context, namespace, name string) (map[string][]byte, error)
}

// Config says where resources are read and what they become. All but Secrets is
// required.
type Config struct {
	API API
	// Cluster is this one's name, ID its number.
	Cluster string
	ID      cluster.ID
	// Dir is where peer files are written, and nothing else; it exists.
	Dir string
	// Files is where an operator's peer files are, which count before resources.
	Files string
	// Secrets is the namespace of the Secrets that resources name, "" where none may.
	Secrets string
	// Writes says whether this replica is the one that writes.
	Writes func() bool
	// Peers and Beliefs say how the peers stand, and what is believed of them.
	Peers   func() []peer.Status
	Beliefs func() map[string]peer.Belief
	// Event is told what has become of a condition of an object, once it is in its
	// status, by a reason that says it alone. It blocks on nothing.
	Event      func(name, uid, condition, reason, note string, good bool)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Manager keeps the files and the status. Its methods are safe for concurrent use.
type Manager struct {
	cfg     Config
	metrics *metrics
	loaded  chan struct{}
	once    sync.Once

	mu      sync.Mutex
	objects map[string]*object
	problem string // why they are not read, "" for nothing
	asked   bool   // the API server has answered, or not, once
}

// object is a resource with what became of it.
type object struct {
	kube.ClusterPeer
	refusal *refusal // nil when it is in force
	// status is as it was written last, or read; at is when it was written here.
	status kube.ClusterPeerStatus
	at     time.Time
}

// New returns a Manager that does nothing until Run.
func New(cfg Config) *Manager {
	m := &Manager{cfg: cfg, loaded: make(chan struct{}), objects: map[string]*object{}}
	m.metrics = newMetrics(cfg.Registerer, m.count)
	return m
}

// Loaded is closed when the directory says what resources do, as far as that is to be
// had: before it, a peer that has no file may be one all the same.
func (m *Manager) Loaded() <-chan struct{} { return m.loaded }

// Problem says why resources are not read at present, "" for nothing.
func (m *Manager) Problem() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.problem
}

// Run follows the resources until ctx ends; it returns nil then.
func (m *Manager) Run(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(m.cfg.Dir, readMark)); err == nil {
		m.load()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.report(ctx)
	}()
	late := time.AfterFunc(grace, m.load)
	defer late.Stop()
	again := retry.Backoff{First: firstRetry, Limit: lastRetry}
	for {
		revision, err := m.look(ctx)
		if err == nil {
			again.Reset()
			if retry.Sleep(ctx, pause) {
				err = m.cfg.API.AwaitClusterPeers(ctx, revision, relist)
			}
		}
		if ctx.Err() != nil || err != nil && !retry.Sleep(ctx, again.Next()) {
			<-done
			return nil
		}
	}
}

func (m *Manager) load() { m.once.Do(func() { close(m.loaded) }) }

// look makes the files what the resources say now.
func (m *Manager) look(ctx context.Context) (revision string, err error) {
	peers, revision, err := m.cfg.API.ClusterPeers(ctx)
	m.note(ctx, err)
	if errors.Is(err, kube.ErrNotServed) {
		return "", errors.Join(err, m.mark()) // none are known, or those of before
	}
	if err != nil {
		return "", err
	}
	objects := map[string]*object{}
	for _, p := range peers {
		o := &object{ClusterPeer: p, status: p.Status}
		if err := m.declare(ctx, &o.ClusterPeer); err != nil {
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			o.refusal = refusalOf(err)
		}
		objects[p.Metadata.Name] = o
	}
	m.replace(objects)
	if err := m.sweep(objects); err != nil {
		m.cfg.Logger.Warn("files of ClusterPeers that are gone are not removed, will retry", "error", err)
		return "", err
	}
	m.load()
	return revision, m.mark()
}

func (m *Manager) mark() error { return pki.WriteFile(filepath.Join(m.cfg.Dir, readMark), nil, 0o600) }

// note keeps why resources are not read, and logs what is new.
func (m *Manager) note(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	text, absent := "", errors.Is(err, kube.ErrNotServed)
	switch {
	case absent:
		text = "the kind ClusterPeer is not installed; it is taken up when it is"
	case err != nil:
		text = err.Error()
	}
	if absent || errors.Is(err, kube.ErrForbidden) {
		m.load() // waiting would not help
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if text == m.problem && m.asked {
		return
	}
	m.problem, m.asked = text, true
	switch {
	case err == nil:
		m.cfg.Logger.Info("ClusterPeers are read")
	case absent:
		m.cfg.Logger.Info("ClusterPeers are not in use: the API server does not know the kind, it is taken up when it does")
	default:
		m.cfg.Logger.Warn("ClusterPeers are not read, what was read stays in force, will retry", "error", err)
	}
}

// replace takes the objects of a listing, with what is known of those that were there.
func (m *Manager) replace(objects map[string]*object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, o := range objects {
		old := m.objects[name]
		if old != nil && old.Metadata.UID == o.Metadata.UID {
			o.at = old.at
		}
		switch {
		case o.refusal != nil && (old == nil || old.refusal == nil || *old.refusal != *o.refusal):
			m.cfg.Logger.Warn("ClusterPeer is not in force as it is", "cluster", name, "generation", o.Metadata.Generation, "reason", o.refusal.reason, "problem", o.refusal.text)
		case o.refusal == nil && (old == nil || old.refusal != nil || old.Metadata.Generation != o.Metadata.Generation):
			m.cfg.Logger.Info("ClusterPeer is in force", "cluster", name, "generation", o.Metadata.Generation)
		}
	}
	for name := range m.objects {
		if objects[name] == nil {
			m.cfg.Logger.Info("ClusterPeer is gone", "cluster", name)
		}
	}
	m.objects = objects
}

// sweep removes the files of peers that have no resource, the peer file first.
func (m *Manager) sweep(objects map[string]*object) error {
	entries, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return fmt.Errorf("read the directory of ClusterPeers: %w", err)
	}
	var wrong []error
	gone := map[string]bool{}
	for _, entry := range entries {
		if name := strings.Trim(entry.Name(), "."); entry.Name() != readMark {
			name, _, _ = strings.Cut(name, ".")
			gone[name] = objects[name] == nil
		}
	}
	for name, is := range gone {
		if !is {
			continue
		}
		if err := os.Remove(filepath.Join(m.cfg.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			wrong = append(wrong, err)
			continue
		}
		wrong = append(wrong, m.dropKey(name))
	}
	return errors.Join(wrong...)
}

func (m *Manager) hidden(name, suffix string) string {
	return filepath.Join(m.cfg.Dir, "."+name+suffix)
}

// secretMark is where it stands which Secret the certificate files were written from.
func (m *Manager) secretMark(name string) string { return m.hidden(name, ".secret") }

// count returns how many resources there are that are in force, and that are not.
func (m *Manager) count() (accepted, refused int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.objects {
		if o.refusal == nil {
			accepted++
		} else {
			refused++
		}
	}
	return accepted, refused
}
