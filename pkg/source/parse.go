package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// located is an object and the line at which it begins.
type located struct {
	object Object
	line   int
}

// part is what one chunk of a file holds.
type part struct {
	sum     [sha256.Size]byte
	line    int // where the chunk begins; objects count from it, as if it were 0
	objects []located
	ignored int // objects of other kinds
}

// content is what a file holds, in the file's order.
type content []part

// each calls fn with every object and the line in the file at which it begins.
func (c content) each(fn func(o Object, line int)) {
	for i := range c {
		for _, l := range c[i].objects {
			fn(l.object, c[i].line+l.line)
		}
	}
}

func (c content) ignored() int {
	n := 0
	for i := range c {
		n += c[i].ignored
	}
	return n
}

// parse reads a manifest. Chunks that previous, an earlier content of the same
// file, holds too are not parsed again, and their objects are the very same. The
// error is a *lineError, or ctx's.
func parse(ctx context.Context, text []byte, previous content) (content, error) {
	known := make(map[[sha256.Size]byte]*part, len(previous))
	for i := range previous {
		known[previous[i].sum] = &previous[i]
	}
	docs := splitFile(text)
	var chunks []chunk
	for _, d := range docs {
		chunks = append(chunks, d.chunks...)
	}
	parts := make(content, len(chunks))
	errs := make([]error, len(chunks))
	err := inParallel(ctx, len(chunks), func(i int) {
		parts[i], errs[i] = parseChunk(chunks[i], known)
	})
	if err != nil {
		return nil, err
	}
	return join(docs, parts, errs, known)
}

// join puts the chunks of each document together. Where one of them is no YAML,
// the document is parsed as a whole: either that succeeds, because it cannot be
// cut, or it tells what is wrong.
func join(docs []document, parts content, errs []error, known map[[sha256.Size]byte]*part) (content, error) {
	var joined content
	for _, d := range docs {
		n := len(d.chunks)
		bad, syntax := firstError(errs[:n])
		switch {
		case bad == nil:
			joined = append(joined, parts[:n]...)
		case !syntax || !d.cut:
			return nil, bad
		default:
			whole, err := parseChunk(d.whole, known)
			if err != nil {
				return nil, earlier(bad, err)
			}
			joined = append(joined, whole)
		}
		parts, errs = parts[n:], errs[n:]
	}
	return joined, nil
}

// firstError returns the first error, and whether any is one of syntax.
func firstError(errs []error) (first error, syntax bool) {
	for _, err := range errs {
		if err == nil {
			continue
		}
		if first == nil {
			first = err
		}
		var at *lineError
		syntax = syntax || (errors.As(err, &at) && at.syntax)
	}
	return first, syntax
}

// parseChunk parses a chunk, or takes what is known of it. The objects' lines
// count from the chunk's, so that a chunk that only moved stays known.
func parseChunk(c chunk, known map[[sha256.Size]byte]*part) (part, error) {
	sum := c.sum()
	if p := known[sum]; p != nil {
		return part{sum: sum, line: c.line, objects: p.objects, ignored: p.ignored}, nil
	}
	p := part{sum: sum, line: c.line}
	err := decode(c, func(o Object, line int) {
		if o == nil {
			p.ignored++
			return
		}
		p.objects = append(p.objects, located{object: o, line: line})
	})
	return p, err
}

// sum identifies everything that a chunk's objects depend on.
func (c *chunk) sum() [sha256.Size]byte {
	h := sha256.New()
	form := "document"
	if c.item {
		form = "item"
	}
	for _, s := range []string{form, c.apiVersion, c.kind} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	h.Write(c.text)
	return [sha256.Size]byte(h.Sum(nil))
}

// inParallel calls fn with 0 to n-1, on all cores, and returns ctx's error if it ends before.
func inParallel(ctx context.Context, n int, fn func(i int)) error {
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range min(n, runtime.GOMAXPROCS(0)) {
		group.Go(func() error {
			for {
				if err := ctx.Err(); err != nil {
					return err
				}
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				fn(i)
			}
		})
	}
	return group.Wait()
}
