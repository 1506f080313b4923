package publish

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/file"
)

// ledgerVersion is what this program writes, and all that it reads.
const ledgerVersion = 1

// ledger keeps the allocations in a file, outside etcd: who loses etcd with all
// that is in it still knows which number meant what. The file is a line that
// says whose it is, with the checksum of what follows, and a line for each
// number. A ledger without a path keeps nothing.
type ledger[N, H comparable] struct {
	path    string
	cluster cluster.Config
	space   space[N, H]
}

// ledgerHead is the first line.
type ledgerHead struct {
	Version int    `json:"version"`
	Cluster string `json:"cluster"`
	ID      uint32 `json:"id"`
	Size    uint32 `json:"max_connected_clusters"`
	SHA256  string `json:"sha256"`
}

func (l ledger[N, H]) head(body []byte) ledgerHead {
	sum := sha256.Sum256(body)
	return ledgerHead{
		Version: ledgerVersion, Cluster: l.cluster.Name, ID: uint32(l.cluster.ID), Size: uint32(l.cluster.Size),
		SHA256: hex.EncodeToString(sum[:]),
	}
}

// load returns what was saved last; nothing when nothing was. Errors wrap
// errLedger for a file that is torn, or another cluster's: it was moved aside.
func (l ledger[N, H]) load() (map[N]claim[H], error) {
	if l.path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the saved %s: %w", l.space.nouns, err)
	}
	claims, err := l.parse(text)
	if err != nil {
		aside := l.path + ".aside"
		if err := os.Rename(l.path, aside); err != nil {
			return nil, fmt.Errorf("set the saved %s aside: %w", l.space.nouns, err)
		}
		return nil, fmt.Errorf("%s: %w: %w; it was moved to %s", l.path, errLedger, err, aside)
	}
	return claims, nil
}

func (l ledger[N, H]) parse(text []byte) (map[N]claim[H], error) {
	first, body, _ := bytes.Cut(text, []byte("\n"))
	var head ledgerHead
	if err := json.Unmarshal(first, &head); err != nil {
		return nil, fmt.Errorf("its first line does not parse: %w", err)
	}
	if want := l.head(body); head != want {
		switch {
		case head.Version != want.Version:
			return nil, fmt.Errorf("it is of version %d, not %d", head.Version, want.Version)
		case head.SHA256 != want.SHA256:
			return nil, errors.New("its checksum is wrong")
		}
		return nil, fmt.Errorf("it is of cluster %s, id %d of %d, not of %s, id %d of %d",
			head.Cluster, head.ID, head.Size, want.Cluster, want.ID, want.Size)
	}
	claims := map[N]claim[H]{}
	for line := range bytes.Lines(body) {
		n, c, err := l.space.decode(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", len(claims)+2, err)
		}
		claims[n] = c
	}
	return claims, nil
}

// save replaces the file, whole or not at all.
func (l ledger[N, H]) save(claims map[N]claim[H]) error {
	if l.path == "" {
		return nil
	}
	var body bytes.Buffer
	for _, n := range slices.SortedFunc(maps.Keys(claims), l.space.compare) {
		if claims[n].nobody() {
			continue // somebody else's, only kept from being used
		}
		line, err := l.space.encode(n, claims[n])
		if err != nil {
			return fmt.Errorf("save the %s: %w", l.space.nouns, err)
		}
		body.Write(append(line, '\n'))
	}
	if err := l.write(body.Bytes()); err != nil {
		return fmt.Errorf("save the %s: %w", l.space.nouns, err)
	}
	return nil
}

func (l ledger[N, H]) write(body []byte) error {
	head, err := json.Marshal(l.head(body))
	if err != nil {
		return err
	}
	return file.Write(l.path, slices.Concat(head, []byte("\n"), body), 0o600)
}
