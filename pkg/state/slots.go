package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/pkg/kube"
)

// Slots are numbered places for what is kept, as kube.Slots has them.
type Slots interface {
	fmt.Stringer
	Read(ctx context.Context, n int) (values map[string][]byte, version string, err error)
	Write(ctx context.Context, n int, version string, values map[string][]byte) (next string, err error)
}

// readTries is how often what is written over while it is read is read again.
const readTries = 5

// holder is who writes to the slots, and how they stand as far as it knows. One
// goroutine has it.
type holder struct {
	slots    Slots
	cluster  string
	id       uint32
	partSize int
	writer   string
	// generation is the last one that is this writer's, version that of slot 0.
	generation uint64
	version    string
	parts      []int
}

// head returns the head that there is, nil for none, besides what is with it.
func (h *holder) head(ctx context.Context) (there *head, first []byte, version string, err error) {
	values, version, err := h.slots.Read(ctx, 0)
	if err != nil || len(values[headKey]) == 0 {
		return nil, nil, version, err
	}
	if there, err = parseHead(values[headKey]); err != nil {
		return nil, nil, "", fmt.Errorf("%s: %w", h.slots, err)
	}
	if there.Cluster != h.cluster || there.ID != h.id {
		return nil, nil, "", fmt.Errorf("%s: %w: %s with id %d, and this is %s with id %d; name another Secret, or delete it to lose that cluster's authority",
			h.slots, ErrForeign, there.Cluster, there.ID, h.cluster, h.id)
	}
	return there, values[partKey], version, nil
}

// read returns the document that there is, whole; no head when there is none.
func (h *holder) read(ctx context.Context) (there *head, d document, version string, err error) {
	for range readTries {
		var packed []byte
		if there, packed, version, err = h.head(ctx); err != nil || there == nil {
			return nil, d, version, err
		}
		for _, slot := range there.Parts {
			values, _, err := h.slots.Read(ctx, slot)
			if err != nil {
				return nil, d, "", err
			}
			packed = append(packed, values[partKey]...)
		}
		if d, err = unpack(there, packed); err == nil {
			return there, d, version, nil
		}
		_, now, failed := h.slots.Read(ctx, 0)
		if failed != nil {
			return nil, d, "", failed
		}
		if now == version {
			break
		}
	}
	return nil, d, "", fmt.Errorf("%s: %w; put a backup of it in its place, or delete it, after which every peer and agent has to join again", h.slots, err)
}

// claim makes a head that was read this writer's, as it is.
func (h *holder) claim(ctx context.Context, there *head, version string) error {
	mine := *there
	mine.Writer, mine.Generation = h.writer, there.Generation+1
	return h.put(ctx, mine, version, nil)
}

// put writes a head over the one of that version, and its part unless that is nil.
func (h *holder) put(ctx context.Context, mine head, version string, part []byte) error {
	values := map[string][]byte{headKey: mustJSON(mine)}
	if part != nil {
		values[partKey] = part
	}
	next, err := h.slots.Write(ctx, 0, version, values)
	if err != nil {
		return err
	}
	h.generation, h.version, h.parts = mine.Generation, next, mine.Parts
	return nil
}

// write keeps a document as the next generation and returns its size.
func (h *holder) write(ctx context.Context, text []byte) (size int, err error) {
	parts, size, sum, err := pack(text, h.partSize)
	if err != nil {
		return 0, err
	}
	for range readTries {
		var more []int
		if more, err = h.writeParts(ctx, parts[1:], size); err == nil {
			err = h.put(ctx, head{
				Format: format, Cluster: h.cluster, ID: h.id, Writer: h.writer, Generation: h.generation + 1,
				Written: time.Now().UTC().Truncate(time.Second), Size: size, SHA256: sum, Parts: more,
			}, h.version, parts[0])
		}
		if !errors.Is(err, kube.ErrSlotChanged) {
			return size, err
		}
		if err := h.resume(ctx); err != nil {
			return 0, err
		}
	}
	return 0, err
}

// writeParts puts parts into slots that the present head does not name. Each is
// written over what it was before the head was seen to be this writer's still: who
// takes over in between writes the slot first, or after, and not with us.
func (h *holder) writeParts(ctx context.Context, parts [][]byte, size int) (slots []int, err error) {
	free := []int{}
	for slot := 1; slot < Count; slot++ {
		if !slices.Contains(h.parts, slot) {
			free = append(free, slot)
		}
	}
	if len(parts) > Count/2 || len(parts) > len(free) {
		return nil, fmt.Errorf("%w: %d bytes, packed, and the Secrets have room for %d; is there a file in the data directory that is not to be there?",
			ErrTooLarge, size, (Count/2+1)*h.partSize)
	}
	for n, part := range parts {
		_, version, err := h.slots.Read(ctx, free[n])
		if err != nil {
			return nil, err
		}
		_, now, err := h.slots.Read(ctx, 0)
		if err == nil && now != h.version {
			err = kube.ErrSlotChanged
		}
		if err == nil {
			_, err = h.slots.Write(ctx, free[n], version, map[string][]byte{partKey: part})
		}
		if err != nil {
			return nil, err
		}
	}
	return free[:len(parts)], nil
}

// resume looks who changed the head: one's own write whose answer was lost, a person
// who labelled or deleted it, or another writer, which is ErrTaken.
func (h *holder) resume(ctx context.Context) error {
	there, _, version, err := h.head(ctx)
	if err != nil {
		return err
	}
	if there == nil {
		h.version, h.parts = version, nil
		return nil
	}
	if h.outranked(there) { // the version stays the old one: nothing can be written with it
		return fmt.Errorf("%s: %w; this one stops: it would undo what that one does", h.slots, ErrTaken)
	}
	h.version, h.parts, h.generation = version, there.Parts, max(h.generation, there.Generation)
	return nil
}

// outranked reports whether a head is of a writer that came after this one.
func (h *holder) outranked(there *head) bool {
	return there.Writer != h.writer && there.Generation > h.generation
}
