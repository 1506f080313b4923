package hostile

import (
	"slices"

	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

// saying is one key that a peer says, and why it is to be refused; "" when it is
// to be believed.
type saying struct {
	key   string
	value []byte // nil deletes the key
	why   trust.Reason
	loses trust.Reason // of what is trimmed
}

const (
	// unheard is a key that no reader asks for: it is not even refused.
	unheard trust.Reason = "unheard"
	// trimmed is a node of which a part is refused, and the rest believed.
	trimmed trust.Reason = "trimmed"
)

// semantic is a case of what a peer says. It is tried in a first listing, and as
// changes of what was listed.
type semantic struct {
	name string
	file string // more of the peer file
	says func(*peer) []saying
}

// semantics returns all cases.
func semantics() []semantic {
	return slices.Concat(reservedNumbers(), numbers(), identities(), addresses(), addressValues(), nodes(), services(), slicesCases(), imports())
}

// refuse is a saying that is to be refused.
func refuse(why trust.Reason, key string, value []byte) saying {
	return saying{key: key, value: value, why: why}
}

func believe(key string, value []byte) saying { return saying{key: key, value: value} }

// one is a case of one saying.
func one(name string, says func(*peer) saying) semantic {
	return semantic{name: name, says: func(p *peer) []saying { return []saying{says(p)} }}
}
