package datapath

import (
	"fmt"
	"time"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// endSockets notes that backends may have gone that connected UDP sockets still
// talk to. Such a socket never chooses again by itself, and nobody would answer it.
// The caller holds d.mu.
func (d *Datapath) endSockets(p Protocol) {
	if p != UDP || !d.ending.IsZero() {
		return
	}
	// Not at once: a connect may still be on its way to what has just gone.
	d.ending = time.Now().Add(grace)
	d.rouse()
}

// socket is one end of a conversation, as the kernel names it.
type socket struct {
	cookie uint64
	peer   target
}

// endDead ends the connected UDP sockets whose backend is no longer one of the
// service that they asked for. It compares all that are known with what is in
// effect, so nothing is missed however the backends went, by a process before
// this one too. It returns how many it ended.
func (d *Datapath) endDead() (int, error) {
	connected, err := d.connectedSockets()
	if err != nil || len(connected) == 0 {
		return 0, err
	}
	dead := d.dead(connected)
	if len(dead) == 0 {
		return 0, nil
	}
	keys := make([]bpf.SocketReverseKey, 0, len(dead))
	for s := range dead {
		keys = append(keys, s.key())
	}
	err = endSockets(dead)
	ended := len(keys) - len(dead)
	d.metrics.ended.Add(float64(ended))
	if err == nil {
		err = d.outOfSight(dead)
	}
	if err != nil {
		// Those that were not found are looked for again the next time.
		return ended, fmt.Errorf("end UDP sockets whose backend is gone: %w", err)
	}
	return ended, pin.Delete(d.maps.reverse, keys)
}

// outOfSight returns an error when sockets that were in no namespace are still
// open: the hook that runs when a socket is closed would have deleted them.
func (d *Datapath) outOfSight(missing map[socket]bool) error {
	if len(missing) == 0 {
		return nil
	}
	connected, err := d.connectedSockets()
	if err != nil {
		return err
	}
	open := 0
	for s := range missing {
		if _, ok := connected[s]; ok {
			open++
		}
	}
	if open > 0 {
		return fmt.Errorf("%d are in no network namespace that can be seen in /proc: the agent needs the PID namespace of the host (in Kubernetes hostPID: true)", open)
	}
	return nil
}

func (s socket) key() bpf.SocketReverseKey {
	return bpf.SocketReverseKey{Cookie: s.cookie, Address: s.peer.address, PortBe: pin.Swap16(s.peer.port), Protocol: uint8(UDP)}
}

// connectedSockets returns the frontends that connected UDP sockets asked for.
func (d *Datapath) connectedSockets() (map[socket]Frontend, error) {
	all := map[socket]Frontend{}
	err := pin.Read(d.maps.reverse, func(k bpf.SocketReverseKey, v bpf.SocketReverse) {
		if Protocol(k.Protocol) != UDP || v.Connected == 0 || v.Seal != sealOf(&v, sealReverseKey(&k)) {
			return
		}
		asked := target{v.Address, pin.Swap16(v.PortBe)}
		all[socket{k.Cookie, target{k.Address, pin.Swap16(k.PortBe)}}] = Frontend{asked.addrPort(), UDP}
	})
	if err != nil {
		return nil, fmt.Errorf("reverse entries: %w", err)
	}
	return all, nil
}

// dead returns those of the sockets whose peer serves its frontend no more.
func (d *Datapath) dead(connected map[socket]Frontend) map[socket]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	type pair struct {
		Frontend
		target
	}
	known := map[pair]bool{}
	dead := map[socket]bool{}
	for s, f := range connected {
		p := pair{f, s.peer}
		serves, ok := known[p]
		if !ok {
			e := d.services[f]
			serves = e != nil && e.serves(s.peer)
			known[p] = serves
		}
		if !serves {
			dead[s] = true
		}
	}
	return dead
}
