package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
)

// membersOf returns the clusters by name, or the one of that name; reader says that
// this one reads us and we do not read it.
func membersOf(r *joinpb.DescribeResponse, name string) (members map[string]*joinpb.Member, reader bool) {
	members = map[string]*joinpb.Member{}
	for _, m := range r.Members {
		if name == "" || m.Name == name {
			members[m.Name] = m
		}
	}
	one := members[name]
	return members, one != nil && one.Reader != nil && one.Origin == ""
}

// writeMember shows the certificates of a peer that nobody renews.
func writeMember(w io.Writer, m *joinpb.Member, now time.Time) {
	if m == nil {
		return
	}
	if m.Bounded {
		fmt.Fprintf(w, "  held to\twhat its ClusterPeer says\n")
	}
	if m.OneWay {
		text := "declared one way: its certificate can not be renewed, give another one with causeway join --etcd-config"
		if m.Ends != nil {
			text = fmt.Sprintf("declared one way: its certificate has %s left and can not be renewed, give another one with causeway join --etcd-config", left(m.Ends, now))
		}
		fmt.Fprintf(w, "  read\t%s\n", text)
	}
	if m.Reader != nil {
		fmt.Fprintf(w, "  reads us\t%s\n", readerText(m, now))
	}
}

// writeReaders shows those that read this cluster and are no peers of it, and says
// whether there are any.
func writeReaders(w io.Writer, members map[string]*joinpb.Member, now time.Time) bool {
	return writeSome(w, members, "READER\tID\tCERTIFICATE", func(m *joinpb.Member) string {
		if m.Reader == nil || m.Origin != "" {
			return ""
		}
		return id(m.Reader.Id) + "\t" + readerText(m, now)
	})
}

// writeOut shows those that were put out and have not come back, and says whether there
// are any.
func writeOut(w io.Writer, members map[string]*joinpb.Member, now time.Time) bool {
	return writeSome(w, members, "PUT OUT\tSINCE\tCOMES BACK BY", func(m *joinpb.Member) string {
		if m.Out == nil || m.Reader != nil || m.Origin != "" || m.Begun != nil {
			return ""
		}
		return fmt.Sprintf("%s\tcauseway invite --peer %s", ago(m.Out, now), m.Name)
	})
}

// writeBegun shows those that broke off their join and have a certificate from it, and
// says whether there are any.
func writeBegun(w io.Writer, members map[string]*joinpb.Member, now time.Time) bool {
	return writeSome(w, members, "BEGAN TO JOIN\tSINCE\tIT MAY READ THIS CLUSTER; TO END THAT", func(m *joinpb.Member) string {
		if m.Begun == nil {
			return ""
		}
		return fmt.Sprintf("%s\tcauseway disconnect %s (the same invitation there finishes the join)", ago(m.Begun, now), m.Name)
	})
}

// writeSome writes a table of those of which row has something to say after their names,
// and says whether there are any; without any there is no table.
func writeSome(w io.Writer, members map[string]*joinpb.Member, header string, row func(*joinpb.Member) string) (any bool) {
	for _, name := range slices.Sorted(maps.Keys(members)) {
		text := row(members[name])
		if text == "" {
			continue
		}
		if !any {
			fmt.Fprintln(w, "\n"+header)
		}
		any = true
		fmt.Fprintf(w, "%s\t%s\n", name, text)
	}
	return any
}

// readerText says how a cluster reads this one.
func readerText(m *joinpb.Member, now time.Time) string {
	if !m.Reader.Issued {
		return fmt.Sprintf("joined one way %s; it renews its certificate itself", ago(m.Reader.Since, now))
	}
	return fmt.Sprintf("issued %s, %s left; it can not renew it: causeway peers renew %s", ago(m.Reader.Since, now), left(m.Reader.Ends, now), m.Name)
}

// daysLeft says for how long a peer can be read by the certificate that it gave us,
// and, where this cluster knows, for how long it can read us.
func daysLeft(m *joinpb.Member, now time.Time) string {
	ours := "-"
	if m.GetEnds() != nil {
		ours = left(m.Ends, now)
	}
	if m.GetReader().GetIssued() {
		ours += ", its " + left(m.Reader.Ends, now)
	}
	return ours
}

// left is how long something is good, in days.
func left(ends *timestamppb.Timestamp, now time.Time) string {
	d := ends.AsTime().Sub(now)
	if d <= 0 {
		return "0 days"
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// printTrust writes both answers as one object.
func printTrust(out io.Writer, peers *adminpb.PeersResponse, members map[string]*joinpb.Member) error {
	known := &joinpb.DescribeResponse{}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		known.Members = append(known.Members, members[name])
	}
	whole := map[string]json.RawMessage{}
	for field, from := range map[string]proto.Message{"peers": peers, "members": known} {
		text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(from)
		if err != nil {
			return fmt.Errorf("encode the answer: %w", err)
		}
		parts := map[string]json.RawMessage{}
		if err := json.Unmarshal(text, &parts); err != nil {
			return fmt.Errorf("encode the answer: %w", err)
		}
		whole[field] = parts[field]
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(whole)
}
