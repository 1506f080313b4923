package wire

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// field is one field of a message. Only values of the two wire types that the
// protocol uses are kept.
type field struct {
	number protowire.Number
	typ    protowire.Type
	bytes  []byte
	value  uint64
}

// eachField calls fn for every field of a message in turn, until it returns an error.
func eachField(b []byte, fn func(field) error) error {
	for len(b) > 0 {
		number, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return malformed("protobuf: %v", protowire.ParseError(n))
		}
		b = b[n:]
		f := field{number: number, typ: typ}
		switch typ {
		case protowire.VarintType:
			f.value, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, typ, b)
		}
		if n < 0 {
			return malformed("protobuf: field %d: %v", number, protowire.ParseError(n))
		}
		b = b[n:]
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

func (f field) string(to *string) error {
	if f.typ != protowire.BytesType || !utf8.Valid(f.bytes) {
		return malformed("protobuf: field %d is not text", f.number)
	}
	*to = string(f.bytes)
	return nil
}

// stringLike is string, but takes usual itself when the text is that.
func (f field) stringLike(to *string, usual string) error {
	if f.typ == protowire.BytesType && string(f.bytes) == usual {
		*to = usual
		return nil
	}
	return f.string(to)
}

// countFields returns how often a field stands in a message, as far as that
// can be read.
func countFields(b []byte, number protowire.Number) (count int) {
	for len(b) > 0 {
		found, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return count
		}
		if found == number {
			count++
		}
		b = b[n:]
	}
	return count
}

func (f field) varint(limit uint64) (uint64, error) {
	if f.typ != protowire.VarintType || f.value > limit {
		return 0, malformed("protobuf: field %d is not a number up to %d", f.number, limit)
	}
	return f.value, nil
}

func (f field) message(fn func(field) error) error {
	if f.typ != protowire.BytesType {
		return malformed("protobuf: field %d is not a message", f.number)
	}
	return eachField(f.bytes, fn)
}

func (f field) mapEntry(what string, to *map[string]string) error {
	var key, value string
	err := f.message(func(part field) error {
		switch part.number {
		case mapKey:
			return part.string(&key)
		case mapValue:
			return part.string(&value)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if *to == nil {
		*to = make(map[string]string)
	}
	(*to)[key] = value
	if len(*to) > maxMapEntries {
		return tooLarge(what, len(*to), maxMapEntries)
	}
	return nil
}

// appendParsed adds one element of a repeated field to a bounded list.
func appendParsed[T any](f field, to *[]T, what string, limit int, parse func([]byte) (T, error)) error {
	if f.typ != protowire.BytesType {
		return malformed("protobuf: field %d is not text or a message", f.number)
	}
	if len(*to) == limit {
		return tooLarge(what, limit+1, limit)
	}
	element, err := parse(f.bytes)
	if err != nil {
		return err
	}
	*to = append(*to, element)
	return nil
}
