package state

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// format is what this version writes, and the newest that it reads.
const format = 1

const (
	// partSize is below the 1 MiB that a Secret may hold, with room for the head.
	partSize = 900 << 10
	// Count is how many slots there are. The head's one is written over at once; the
	// others hold two generations while the next one is written.
	Count = 9
	// maxUnpacked bounds what a document takes when it is read.
	maxUnpacked = 512 << 20
)

// Keys of the values in a slot.
const (
	headKey = "head"
	partKey = "part"
)

// Errors that end a process: waiting does not help, and to go on would lose something.
var (
	ErrForeign  = errors.New("it is the state of another cluster")
	ErrNewer    = errors.New("it was written by a newer version")
	ErrDamaged  = errors.New("it is damaged")
	ErrTaken    = errors.New("another API server has taken over")
	ErrTooLarge = errors.New("the state is too large")
)

// head says what the parts are.
type head struct {
	Format  int    `json:"format"`
	Cluster string `json:"cluster"`
	ID      uint32 `json:"id"`
	// Writer is drawn for each data directory.
	Writer     string    `json:"writer"`
	Generation uint64    `json:"generation"`
	Written    time.Time `json:"written"`
	// Size and SHA256 are those of all parts together, Parts the slots of those
	// beside the head's own.
	Size   int    `json:"size"`
	SHA256 string `json:"sha256"`
	Parts  []int  `json:"parts,omitempty"`
}

func parseHead(text []byte) (*head, error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return nil, fmt.Errorf("%w: its head is no JSON", ErrDamaged)
	}
	if version.Format > format {
		return nil, fmt.Errorf("%w, in format %d, and this one reads format %d: upgrade", ErrNewer, version.Format, format)
	}
	var h head
	if err := json.Unmarshal(text, &h); err != nil || h.Format < 1 || len(h.Parts) >= Count {
		return nil, fmt.Errorf("%w: its head makes no sense", ErrDamaged)
	}
	for _, slot := range h.Parts {
		if slot < 1 || slot >= Count {
			return nil, fmt.Errorf("%w: its head names part %d", ErrDamaged, slot)
		}
	}
	return &h, nil
}

// document is what is kept.
type document struct {
	Files []file `json:"files"`
	Keys  []key  `json:"keys"`
}

// file is one below the data directory.
type file struct {
	Path string      `json:"path"`
	Mode fs.FileMode `json:"mode"`
	Text []byte      `json:"text"`
}

// key is one of etcd.
type key struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

func (d document) encode() []byte {
	text, _ := json.Marshal(d) // no field can fail
	return text
}

func checksum(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// pack returns the parts of a document, the one beside the head first, each of at most
// partSize bytes.
func pack(text []byte, partSize int) (parts [][]byte, size int, sum string, err error) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(text); err != nil {
		return nil, 0, "", err
	}
	if err := w.Close(); err != nil {
		return nil, 0, "", err
	}
	rest := packed.Bytes()
	size, sum = len(rest), checksum(rest)
	for len(rest) > partSize {
		parts, rest = append(parts, rest[:partSize]), rest[partSize:]
	}
	return append(parts, rest), size, sum, nil
}

// unpack returns the document of all parts together.
func unpack(h *head, packed []byte) (d document, err error) {
	if len(packed) != h.Size || checksum(packed) != h.SHA256 {
		return d, fmt.Errorf("%w: its parts are not those of its head", ErrDamaged)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return d, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	text, err := io.ReadAll(io.LimitReader(r, maxUnpacked))
	if err != nil {
		return d, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if json.Unmarshal(text, &d) != nil { // its error may quote what is secret
		return d, fmt.Errorf("%w: it is no JSON", ErrDamaged)
	}
	return d, nil
}
