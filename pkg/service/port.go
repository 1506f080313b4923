package service

// MatchPort returns the port number on which a backend answers for want, a
// port of the frontend whose ports are front, given all ports of the backend's
// slice. Ports meet by name and protocol. Without a name there is nothing to
// tell ports apart by, so an unnamed port meets another only when each side
// has just that one.
func MatchPort(want Port, front, back []Port) (uint16, bool) {
	if want.Name == "" && (len(front) != 1 || len(back) != 1) {
		return 0, false
	}
	for _, p := range back {
		if p.Name == want.Name && p.Protocol == want.Protocol {
			return p.Port, true
		}
	}
	return 0, false
}
