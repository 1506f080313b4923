package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/merge"
)

func newBPFCommand(opts *options) *cobra.Command {
	bpf := &cobra.Command{
		Use:   "bpf",
		Short: "Look at what the kernel of this node does, as root; needs no API server",
		Args:  cobra.NoArgs,
	}
	bpf.AddCommand(newDumpCommand(opts))
	return bpf
}

// dump is what `bpf dump` shows, in its JSON form.
type dump struct {
	Services []dumpService `json:"services"`
	// StraySlots and StrayBackends are in the maps and in no service.
	StraySlots    int       `json:"stray_slots"`
	StrayBackends int       `json:"stray_backends"`
	Addresses     []address `json:"addresses"`
}

type dumpService struct {
	Frontend   string `json:"frontend"`
	ID         uint32 `json:"id"`
	Generation uint32 `json:"generation"`
	Damaged    bool   `json:"damaged"`
	// SessionSeconds is for how long a client keeps its backend.
	SessionSeconds int `json:"session_seconds"`
	// Refuses says what becomes of connections while there is no backend.
	Refuses bool        `json:"refuses"`
	Groups  []dumpGroup `json:"groups"`
}

type dumpGroup struct {
	Tier   uint8      `json:"tier"`
	Weight uint16     `json:"weight"`
	Slots  []dumpSlot `json:"slots"`
}

type dumpSlot struct {
	Backend uint32 `json:"backend"`
	// Address is "" when the slot leads nowhere.
	Address string   `json:"address"`
	Who     *address `json:"who,omitempty"`
}

func newDumpCommand(opts *options) *cobra.Command {
	var bpffs, state string
	var who addressFilter
	cmd := &cobra.Command{
		Use:   "dump",
		Short: "Show services, groups, slots and backends in the node's maps, and who is who by the agent's last state",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := who.filter()
			if err != nil {
				return err
			}
			maps, err := datapath.ReadDump(bpffs)
			if err != nil {
				return err
			}
			directory, err := feed.ReadDirectory(state)
			if err != nil { // the maps are worth to be seen alone
				fmt.Fprintln(cmd.ErrOrStderr(), "causeway: who is who is not known:", err)
				directory = &merge.Directory{}
			}
			d := newDump(maps, directory, filter)
			if opts.output == "json" {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(d)
			}
			return writeDump(cmd.OutOrStdout(), d)
		},
	}
	cmd.Flags().StringVar(&bpffs, "bpffs-dir", "/sys/fs/bpf/causeway", "the agent's --bpffs-dir")
	cmd.Flags().StringVar(&state, "state-dir", "/var/lib/causeway/node-agent", "the agent's --state-dir")
	who.flags(cmd.Flags())
	return cmd
}

// newDump joins what the maps and the directory say. The filter narrows the
// addresses, not the services.
func newDump(maps *datapath.Dump, directory *merge.Directory, filter merge.Filter) *dump {
	d := &dump{Services: []dumpService{}, StraySlots: maps.StraySlots, StrayBackends: maps.StrayBackends, Addresses: []address{}}
	byAddress := map[string]*address{}
	for _, e := range directory.Entries(merge.Filter{}) {
		a := addressOf(e)
		byAddress[a.Address] = &a
	}
	for _, e := range directory.Entries(filter) {
		d.Addresses = append(d.Addresses, addressOf(e))
	}
	for _, s := range maps.Services {
		out := dumpService{
			Frontend: s.String(), ID: s.ID, Generation: s.Generation, Damaged: s.Damaged,
			SessionSeconds: int(s.Session.Seconds()), Refuses: s.Refuses, Groups: []dumpGroup{},
		}
		for _, g := range s.Groups {
			group := dumpGroup{Tier: g.Tier, Weight: g.Weight, Slots: []dumpSlot{}}
			for _, b := range g.Backends {
				slot := dumpSlot{Backend: b.ID}
				if b.Addr.IsValid() {
					slot.Address, slot.Who = b.Addr.String(), byAddress[b.Addr.Addr().String()]
				}
				group.Slots = append(group.Slots, slot)
			}
			out.Groups = append(out.Groups, group)
		}
		d.Services = append(d.Services, out)
	}
	return d
}

// writeDump shows a dump to a person: a line for each slot, then who is who.
func writeDump(out io.Writer, d *dump) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "FRONTEND\tID\tGENERATION\tSESSION\tGROUP\tTIER\tWEIGHT\tSLOT\tBACKEND\tADDRESS\tCLUSTER\tPOD")
	for _, s := range d.Services {
		writeDumpService(w, s)
	}
	if d.StraySlots+d.StrayBackends > 0 {
		fmt.Fprintf(w, "\nIn no service: %d slots, %d backends.\n", d.StraySlots, d.StrayBackends)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	return writeAddresses(out, d.Addresses)
}

func writeDumpService(w io.Writer, s dumpService) {
	damaged := ""
	if s.Damaged {
		damaged = " (damaged)"
	}
	start := fmt.Sprintf("%s\t%d\t%d%s\t%s", s.Frontend, s.ID, s.Generation, damaged, session(s.SessionSeconds))
	empty := true
	for i, g := range s.Groups {
		for j, slot := range g.Slots {
			cluster, pod := slot.who()
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n",
				start, i, g.Tier, g.Weight, j, slot.Backend, orDash(slot.Address), orDash(cluster), orDash(pod))
			empty = false
		}
	}
	if empty {
		without := "no backend: left alone"
		if s.Refuses {
			without = "no backend: refused"
		}
		fmt.Fprintf(w, "%s\t-\t-\t-\t-\t-\t%s\t-\t-\n", start, without)
	}
}

func session(seconds int) string {
	if seconds == 0 {
		return "-"
	}
	return fmt.Sprintf("%ds", seconds)
}

func (s dumpSlot) who() (cluster, pod string) {
	if s.Who == nil {
		return "", ""
	}
	return s.Who.Cluster, s.Who.pod()
}
