package stranger

import (
	"errors"
	"fmt"
)

// ErrToken is returned, wrapped with what is wrong, for text that is no token.
var ErrToken = errors.New("not an agent's token")

// tokens is how passes for agents are written.
func tokens() Form {
	return Form{Prefix: "causeway-agent-token-1.", Command: "causeway agent token", Err: ErrToken}
}

// TokenText returns the line of text of a pass for the agent of its Node. It holds
// the secret.
func TokenText(p Pass) string { return tokens().Text(p) }

// ParseToken reads what TokenText returned; see Form. Errors wrap ErrToken.
func ParseToken(text string) (Pass, error) {
	p, err := tokens().Parse(text)
	if err == nil && p.Node == "" {
		return Pass{}, fmt.Errorf("%w: it names no node", ErrToken)
	}
	return p, err
}
