package main

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// TestMain lets this test binary be the parts that the benchmark starts.
func TestMain(m *testing.M) {
	parts := []string{partInside, partServer, partClient, partPeer, partHostile, partCarry, partSink, partSource, partMesh, partPacket}
	if len(os.Args) > 1 && slices.Contains(parts, os.Args[1]) {
		main()
		os.Exit(0)
	}
	labtest.Main(m, "clustermesh-apiserver", "node-agent")
}

func TestRunRefuses(t *testing.T) {
	for want, args := range map[string][]string{
		`no benchmark is called ""`:           nil,
		`no benchmark is called "disk"`:       {"disk"},
		"-rounds 0 and -connections 1000":     {"connect", "-rounds=0"},
		`invalid value "many"`:                {partInside, "-connections=many"},
		"address:port and count are":          {partClient},
		`count "0" is not a number`:           {partClient, "tcp", "10.0.0.1:80", "0"},
		`not an ip:port`:                      {partClient, "udp", "here", "1"},
		"flag provided but not defined: -all": {"connect", "-all"},
		`no row is called "disk": there are `: {"sync", "-rows=peer,disk"},
		"kind, cluster, folder and address":   {partPeer, "hub"},
		"attack, index, folder and address":   {partHostile, "flood"},
		"-rounds 1 and -time 0s must be":      {"throughput", "-rounds=1", "-time=0"},
		"-rounds 0 and -packets 100000":       {"packet", "-rounds=0"},
		"-addresses 1000 must be a power":     {partPacket, "-addresses=1000"},
		"an address is expected":              {partSource},
		"unable to parse IP":                  {partSource, "here"},
		"folder, mode, side and number of ":   {partMesh, "/nowhere", "vxlan"},
	} {
		var out bytes.Buffer
		err := run(t.Context(), args, strings.NewReader(""), &out)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", args, err, want)
		}
	}
}
