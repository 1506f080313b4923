package kvstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

const (
	defaultQuotaBytes = 2 << 30

	// Old revisions serve readers that were away for a moment; one that was
	// away for longer lists again, which costs seconds.
	historyKept = "5m"

	// Raft keeps this many transactions in memory (ours are up to 512 KiB)
	// before a snapshot; no other member ever needs to catch up from them.
	snapshotEntries = 500
	catchUpEntries  = 50

	// A database with more free pages than this is rewritten at the start.
	defragmentMegabytes = 64
)

// ServerConfig is what an embedded etcd needs.
type ServerConfig struct {
	// Dir is the data directory. It is made (mode 0700) when it is missing,
	// and belongs to one process at a time.
	Dir string
	// QuotaBytes is the size of the database at which etcd refuses writes. 0 means 2 GiB.
	QuotaBytes int64
	Logger     *slog.Logger
}

// Server is an etcd of one member inside this process. It is reached by a unix
// socket in its data directory, and by no network at all. What it has
// acknowledged is on the disk: it may be killed at any time. When the disk
// fails under it (a WAL that cannot be synced) etcd ends the process, since
// nothing that it would say from then on could be relied upon.
type Server struct {
	cfg      ServerConfig
	log      *slog.Logger
	running  atomic.Bool
	serving  chan struct{} // closed once clients can connect
	stopped  chan struct{} // closed once Run has ended
	endpoint string        // set before serving is closed
	period   time.Duration // how often the quota is looked after
}

// NewServer makes a server that does nothing before Run.
func NewServer(cfg ServerConfig) *Server {
	if cfg.QuotaBytes == 0 {
		cfg.QuotaBytes = defaultQuotaBytes
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg:     cfg,
		log:     cfg.Logger,
		serving: make(chan struct{}),
		stopped: make(chan struct{}),
		period:  quotaPeriod,
	}
}

// Dial waits until the server serves and returns a client, which the caller
// closes. It fails when ctx ends or Run ended before (ErrStopped).
func (s *Server) Dial(ctx context.Context) (*Client, error) {
	select {
	case <-s.serving:
	case <-s.stopped:
		return nil, fmt.Errorf("dial etcd in %q: %w", s.cfg.Dir, ErrStopped)
	case <-ctx.Done():
		return nil, fmt.Errorf("dial etcd in %q: %w", s.cfg.Dir, ctx.Err())
	}
	return Dial(ClientConfig{Endpoints: []string{s.endpoint}, Logger: s.log})
}

// Run serves until ctx ends, then returns nil. It may be called once. It
// returns ErrDirInUse, wrapped with the directory, when another process has it.
func (s *Server) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("run etcd: Run was called before")
	}
	defer close(s.stopped)
	dir, err := openDir(ctx, s.cfg.Dir)
	if err != nil {
		return err
	}
	defer dir.close()
	if err := s.serve(ctx, dir); err != nil {
		return fmt.Errorf("run etcd in %q: %w", s.cfg.Dir, err)
	}
	return nil
}

func (s *Server) serve(ctx context.Context, dir *dataDir) error {
	cfg, err := s.etcdConfig(dir)
	if err != nil {
		return err
	}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer etcd.Close()
	select {
	case <-etcd.Server.ReadyNotify():
	case <-etcd.Server.StopNotify():
		return ErrStopped
	case <-ctx.Done():
		return nil
	}

	listener, err := dir.listen()
	if err != nil {
		return err
	}
	server := v3rpc.Server(etcd.Server, nil, nil, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
		MinTime: keepaliveTime / 2,
	}))
	s.endpoint = "unix://" + dir.socket
	close(s.serving)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, grpc.ErrServerStopped) { // that, when it was stopped first
			return err
		}
		return nil
	})
	group.Go(func() error {
		(&quota{etcd: etcd.Server, bytes: s.cfg.QuotaBytes, log: s.log}).run(ctx, s.period)
		return nil
	})
	group.Go(func() error {
		defer server.Stop() // not GracefulStop: watch streams have no end to wait for
		select {
		case <-etcd.Server.StopNotify():
			return ErrStopped
		case <-ctx.Done():
			return nil
		}
	})
	return group.Wait()
}

// etcdConfig sets etcd up without any listener: it has no peers, and its
// clients are served by our own listener, which can be closed at once.
func (s *Server) etcdConfig(dir *dataDir) (*embed.Config, error) {
	to, moved, err := dir.setAside()
	if err != nil {
		return nil, err
	}
	if moved {
		s.log.Warn("data without a log is set aside, the store begins empty", "dir", s.cfg.Dir, "moved_to", to)
	}
	token, err := dir.token()
	if err != nil {
		return nil, err
	}
	cfg := embed.NewConfig()
	cfg.Name = "causeway"
	cfg.Dir = s.cfg.Dir
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(s.log))
	cfg.ListenPeerUrls, cfg.ListenClientUrls, cfg.AdvertiseClientUrls = nil, nil, nil
	self := url.URL{Scheme: "http", Host: "127.0.0.1:2380"} // a name; nothing listens there
	cfg.AdvertisePeerUrls = []url.URL{self}
	cfg.InitialCluster = cfg.Name + "=" + self.String()
	cfg.InitialClusterToken = token
	cfg.TickMs, cfg.ElectionMs = 50, 500 // elects itself sooner at the start
	cfg.QuotaBackendBytes = s.cfg.QuotaBytes
	cfg.AutoCompactionMode = embed.CompactorModePeriodic
	cfg.AutoCompactionRetention = historyKept
	cfg.SnapshotCount = snapshotEntries
	cfg.SnapshotCatchUpEntries = catchUpEntries
	cfg.BootstrapDefragThresholdMegabytes = defragmentMegabytes
	cfg.EnableGRPCGateway = false
	return cfg, nil
}
