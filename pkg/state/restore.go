package state

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/retry"
)

// What the package has in the data directory, in ownDir.
const (
	ownDir   = "state"
	markFile = "mark.json"
	keysFile = "keys.json"
)

// mark says whose generation the data directory is.
type mark struct {
	Writer     string `json:"writer"`
	Generation uint64 `json:"generation"`
	// Restoring says that not all files are there yet.
	Restoring bool `json:"restoring,omitempty"`
}

func mustJSON(v any) []byte {
	text, _ := json.Marshal(v) // no field of what is ours can fail
	return text
}

func (k *Keeper) writeMark(m mark) error {
	return pki.WriteFile(k.own(markFile), mustJSON(m), 0o600)
}

// readMark returns the mark of a data directory; it draws a writer and writes that down
// when there is none, so that a write whose end was not seen is known again.
func (k *Keeper) readMark() (m mark, err error) {
	text, err := os.ReadFile(k.own(markFile))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		drawn := make([]byte, 16)
		if _, err := rand.Read(drawn); err != nil {
			return m, err
		}
		m.Writer = hex.EncodeToString(drawn)
		return m, k.writeMark(m)
	case err != nil:
		return m, fmt.Errorf("read whose state %s holds: %w", k.cfg.Dir, err)
	}
	return m, nil
}

// Restore puts what is kept into an empty data directory, and makes it this
// process's to write. It waits until the Kubernetes API has said what is kept, and tells
// waiting why; an error is one that waiting does not mend. The directory must be this
// process's alone.
func (k *Keeper) Restore(ctx context.Context, waiting func(error)) error {
	if err := os.MkdirAll(filepath.Join(k.cfg.Dir, ownDir), 0o700); err != nil {
		return fmt.Errorf("make the directory of the state: %w", err)
	}
	again := retry.Backoff{First: firstTry, Limit: lastTry}
	for {
		err := k.begin(ctx)
		if err == nil || refused(err) || errors.Is(err, errFiles) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		delay := again.Next()
		if errors.Is(err, kube.ErrSlotChanged) { // another one that is ending has written
			delay = 0
		}
		waiting(err)
		k.log.Warn("what is kept in the Kubernetes API is not known: nothing begins before that, will retry",
			"secret", k.cfg.Slots.String(), "attempt", again.Attempts(), "delay", delay, "error", err)
		if !retry.Sleep(ctx, delay) {
			return context.Cause(ctx)
		}
	}
}

// errFiles is what is wrong with the data directory.
var errFiles = errors.New("data directory")

// begin is one attempt of Restore.
func (k *Keeper) begin(ctx context.Context) error {
	m, err := k.readMark()
	if err != nil {
		return fmt.Errorf("%w: %w", errFiles, err)
	}
	h := &k.holder
	h.writer, h.generation = m.Writer, m.Generation
	there, kept, version, err := h.read(ctx)
	if err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(k.cfg.Dir, k.cfg.Essential))
	filled := err == nil && !m.Restoring
	switch {
	case there == nil && m.Restoring:
		return fmt.Errorf("%w: %s was being filled from %s, which is gone; empty the directory, or put a backup of the Secret back", errFiles, k.cfg.Dir, k.cfg.Slots)
	case there == nil:
		h.version = version
		if !filled {
			k.log.Warn("no state is kept yet: this is a new cluster, with an authority of its own", "secret", k.cfg.Slots.String())
		}
		return nil
	case filled && h.outranked(there):
		return fmt.Errorf("%s: %w, with generation %d, and %s holds generation %d; empty the directory to go on with the Secret's, or delete the Secret to go on with the directory's",
			k.cfg.Slots, ErrTaken, there.Generation, k.cfg.Dir, m.Generation)
	case filled:
		h.version, h.parts, h.generation = version, there.Parts, max(m.Generation, there.Generation)
		return nil
	}
	return k.fill(ctx, there, version, kept)
}

// fill puts what is kept into the data directory, after it was made ours.
func (k *Keeper) fill(ctx context.Context, there *head, version string, kept document) error {
	h := &k.holder
	before := mark{Writer: h.writer, Generation: there.Generation, Restoring: true}
	if err := k.writeMark(before); err != nil {
		return fmt.Errorf("%w: %w", errFiles, err)
	}
	if err := h.claim(ctx, there, version); err != nil {
		return err
	}
	err := restore(k.cfg.Dir, k.cfg.Roots, kept.Files)
	if err == nil {
		err = pki.WriteFile(k.own(keysFile), mustJSON(kept.Keys), 0o600)
	}
	if err == nil {
		err = k.writeMark(mark{Writer: h.writer, Generation: h.generation})
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errFiles, err)
	}
	k.log.Info("the state is restored", "secret", k.cfg.Slots.String(), "generation", there.Generation,
		"written", there.Written, "files", len(kept.Files), "keys", len(kept.Keys))
	return nil
}

// Fill puts the keys that were kept into etcd, those that are not there, and looks at
// them from then on.
func (k *Keeper) Fill(ctx context.Context, etcd *kvstore.Client) error {
	text, err := os.ReadFile(k.own(keysFile))
	if err == nil {
		var keys []key
		if json.Unmarshal(text, &keys) != nil {
			return fmt.Errorf("%w: %s holds no JSON", errFiles, k.own(keysFile))
		}
		for _, one := range keys {
			if _, err := etcd.CompareAndPut(ctx, one.Key, nil, false, one.Value); err != nil {
				return fmt.Errorf("restore %q: %w", one.Key, err)
			}
		}
		err = os.Remove(k.own(keysFile))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("restore the keys of etcd: %w", err)
	}
	k.etcd = etcd
	return nil
}

// listKeys returns the keys below prefixes, in the order of these.
func listKeys(ctx context.Context, etcd *kvstore.Client, prefixes []string) (out []key, err error) {
	for _, prefix := range prefixes {
		err := etcd.List(ctx, kvstore.Prefix(prefix), func(item kvstore.Item) error {
			out = append(out, key{Key: item.Key, Value: item.Value})
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read %q in etcd: %w", prefix, err)
		}
	}
	return out, nil
}
