package feed

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
)

// A journal is a file with a state and the changes since: a first line that
// names the format, a line of JSON that says whose it is, and Batches, each
// with its length before it and a checksum behind. The checksum is that of the
// whole file so far, so a piece of another file is never taken for its end.
const (
	journalFormat = "causeway feed state 1\n"
	// maxFrame is far more than a Batch has.
	maxFrame = 16 << 20
)

// The reasons why a journal cannot be used.
var (
	errTorn    = errors.New("it ends in the middle, or was changed: wrong checksum")
	errFormat  = errors.New("it is of another version, or no state at all")
	errForeign = errors.New("it is another cluster's")
)

// origin says whose state a journal has.
type origin struct {
	Cluster string `json:"cluster"`
	// Boot is the kernel's id of the boot in which the journal was written.
	Boot string `json:"boot"`
}

// journal is a file that is written.
type journal struct {
	file *os.File
	path string
	sum  uint32
	// size is that of the file, base what it had when it held a state and no
	// changes yet, in bytes.
	size, base int64
	dirty      bool // not all is on the disk
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// createJournal makes the file anew.
func createJournal(path string, o origin) (*journal, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{file: file, path: path}
	text, err := json.Marshal(o)
	if err == nil {
		err = j.write([]byte(journalFormat + string(text) + "\n"))
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return j, nil
}

func (j *journal) write(b []byte) error {
	j.sum = crc32.Update(j.sum, castagnoli(), b)
	n, err := j.file.Write(b)
	j.size += int64(n)
	j.dirty = true
	return err
}

// appendAll writes one change in as many messages as it takes.
func (j *journal) appendAll(r Revision, encoded [][]byte) error {
	rest := encoded
	for {
		var first [][]byte
		first, rest, _ = split(rest)
		if err := j.append(&feedpb.Batch{Revision: revisionToProto(r), Last: len(rest) == 0, Resources: first}); err != nil {
			return err
		}
		if len(rest) == 0 {
			return nil
		}
	}
}

func (j *journal) append(b *feedpb.Batch) error {
	frame, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 4, 8+proto.Size(b)), b)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	sum := crc32.Update(j.sum, castagnoli(), frame)
	return j.write(binary.BigEndian.AppendUint32(frame, sum))
}

// readJournal calls fn for each Batch that is whole and returns whose the
// journal is. An error that wraps errTorn says that the file has more.
func readJournal(path string, fn func(*feedpb.Batch) error) (origin, error) {
	file, err := os.Open(path)
	if err != nil {
		return origin{}, err
	}
	defer file.Close() //nolint:errcheck // it is only read
	r := &journalReader{from: bufio.NewReaderSize(file, 1<<20)}
	o, err := r.header()
	for err == nil {
		var b *feedpb.Batch
		if b, err = r.next(); err == nil {
			err = fn(b)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return o, err
}

type journalReader struct {
	from *bufio.Reader
	sum  uint32
}

func (r *journalReader) header() (o origin, err error) {
	format, err := r.from.ReadSlice('\n')
	if err != nil || string(format) != journalFormat {
		return o, errFormat
	}
	r.sum = crc32.Update(r.sum, castagnoli(), format)
	line, err := r.from.ReadSlice('\n')
	if err != nil || json.Unmarshal(line, &o) != nil {
		return o, errTorn
	}
	r.sum = crc32.Update(r.sum, castagnoli(), line)
	return o, nil
}

// next returns io.EOF at the end of a file that ends where it should.
func (r *journalReader) next() (*feedpb.Batch, error) {
	var length [4]byte
	if _, err := io.ReadFull(r.from, length[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, errTorn
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxFrame {
		return nil, errTorn
	}
	frame := make([]byte, n+4)
	if _, err := io.ReadFull(r.from, frame); err != nil {
		return nil, errTorn
	}
	r.sum = crc32.Update(crc32.Update(r.sum, castagnoli(), length[:]), castagnoli(), frame[:n])
	if r.sum != binary.BigEndian.Uint32(frame[n:]) {
		return nil, errTorn
	}
	r.sum = crc32.Update(r.sum, castagnoli(), frame[n:])
	b := &feedpb.Batch{}
	if err := proto.Unmarshal(frame[:n], b); err != nil {
		return nil, fmt.Errorf("%w: %w", errTorn, err)
	}
	return b, nil
}
