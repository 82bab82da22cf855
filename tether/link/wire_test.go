package link

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestWireNumbers pins what spec.md promises: a change here breaks every peer that is deployed.
func TestWireNumbers(t *testing.T) {
	var frame [4]byte
	putFrameHeader(frame[:], frameData, 0x1234)
	var end [4]byte
	putFrameHeader(end[:], frameEnd, 0)
	var message bytes.Buffer
	if err := WriteMessage(&message, "info-get guestinfo.ip"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		got  []byte
		want string
	}{
		{"preface", appendPreface(nil, ourVersions()), "63564d00 0001 0001"},
		{"stdout header", appendStreamHeader(nil, streamHeader{kindStdout, "main", -1}), "01 00 04 00 00000000 ffffffffffffffff 6d61696e"},
		{"stderr header", appendStreamHeader(nil, streamHeader{kindStderr, "a", 258}), "02 00 01 00 00000000 0000000000000102 61"},
		{"input header", appendStreamHeader(nil, streamHeader{kindInput, "a", 0}), "03 00 01 00 00000000 0000000000000000 61"},
		{"upload header", appendStreamHeader(nil, streamHeader{kindUpload, "a", 0}), "04 00 01 00 00000000 0000000000000000 61"},
		{"tcp header", appendStreamHeader(nil, streamHeader{kindTCP, "[::1]:80", 0}), "05 00 08 00 00000000 0000000000000000 5b3a3a315d3a3830"},
		{"download header", appendStreamHeader(nil, streamHeader{kindDownload, "a", 0}), "07 00 01 00 00000000 0000000000000000 61"},
		{"udp header", appendStreamHeader(nil, streamHeader{kindUDP, "1.2.3.4:5", 0}), "06 00 09 00 00000000 0000000000000000 312e322e332e343a35"},
		{"reply", appendReply(nil, reply{codes.OK, "", 16, 3}), "00 00 0000 00000000 0000000000000010 0000000000000003"},
		{"refusal", appendReply(nil, reply{codes.NotFound, "no", 0, 0}), "05 00 0002 00000000 0000000000000000 0000000000000000 6e6f"},
		{"data frame", frame[:], "01 001234"},
		{"end frame", end[:], "02 000000"},
		{"error frame", appendErrorFrame(nil, status.Error(codes.Internal, "x")), "03 000002 0d 78"},
		{"skip frame", appendSkipFrame(nil, 258), "04 000008 0000000000000102"},
		{"record", AppendRecord(nil, Record{StreamStderr, time.Unix(1, 2), []byte("hi")}), "02 000000 00000002 000000003b9aca02 6869"},
		{"gap", AppendRecord(nil, Gap(258)), "04 000000 00000008 0000000000000000 0000000000000102"},
		{"run marker", AppendRecord(nil, Record{Stream: StreamRun}), "03 000000 00000000 0000000000000000"},
		{"guestinfo message", message.Bytes(), "00000015 696e666f2d676574206775657374696e666f2e6970"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.got, want) {
			t.Errorf("%s: % x, want % x", c.what, c.got, want)
		}
	}
}

// TestNames pins the numbers and words that both sides must know.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"link port", PortLink, uint32(1024)},
		{"guestinfo port of CID 3", HostPort(3, ServiceGuestinfo), uint32(0x31)},
		{"log port of CID 3", HostPort(3, ServiceLog), uint32(0x32)},
		{"stdout", StreamStdout, RecordStream(1)},
		{"stderr", StreamStderr, RecordStream(2)},
		{"run", StreamRun, RecordStream(3)},
		{"gap", StreamGap, RecordStream(4)},
		{"message limit", MaxMessage, 1048576},
		{"key limit", MaxKey, 256},
		{"record limit", MaxRecord, 65536},
		{"session limit", maxSession, 64},
		{"reason limit", maxReason, 1024},
		{"stream limit", MaxStreams, 128},
		{"main session", MainSession, "main"},
		{"spec key", KeySpec, "guestinfo.cvm.spec"},
		{"phase key", KeyPhase, "guestinfo.cvm.phase"},
		{"status key", KeyStatus, "guestinfo.cvm.status"},
		{"version key", KeyVersion, "guestinfo.cvm.version"},
		{"address key", KeyIP, "guestinfo.ip"},
		{"get", Command{Name: CommandInfoGet, Key: "k"}.String(), "info-get k"},
		{"set", Command{Name: CommandInfoSet, Key: "k", Value: "a b"}.String(), "info-set k a b"},
		{"fork key", KeyFork, "guestinfo.cvm.fork"},
		{"gate key", KeyGate, "guestinfo.cvm.gate"},
		{"open gate", GateOpen, "open"},
		{"receipt key", KeyReceipt, "guestinfo.cvm.receipt"},
		{"health key", KeyHealth, "guestinfo.cvm.health"},
		{"MACs key", KeyMACs, "guestinfo.cvm.macs"},
		{"rehearsal key", KeyRehearse, "guestinfo.cvm.rehearse"},
		{"key that is never set", KeyNever, "guestinfo.cvm.never"},
		{"warm phase", PhaseWarm, "warm"},
		{"seed length", SeedBytes, 64},
		{"time to stop", DefaultStopGrace, 10},
		{"wait", Command{Name: CommandWait, Key: "k"}.String(), "cvm.wait k"},
		{"seed", Command{Name: CommandSeed}.String(), "cvm.seed"},
		{"freeze", Command{Name: CommandFreeze}.String(), "instantclone.freeze"},
		{"time", Command{Name: CommandTime}.String(), "cvm.time"},
		{"hello", Command{Name: CommandHello, Key: "k"}.String(), "cvm.hello k"},
		{"token", Command{Name: CommandToken, Value: "t"}.String(), "cvm.token t"},
		{"token length", TokenLength, 64},
		{"greeting limit", MaxGreeting, 512},
		{"done", ReplyOK("v"), "1 v"},
		{"refused", ReplyError("why"), "0 why"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
}

func TestNegotiate(t *testing.T) {
	for _, c := range []struct {
		ours, peer Versions
		want       uint16
		words      string // of the error
	}{
		{Versions{1, 1}, Versions{1, 1}, 1, ""},
		{Versions{1, 3}, Versions{2, 5}, 3, ""},
		{Versions{2, 5}, Versions{1, 3}, 3, ""},
		{Versions{1, 1}, Versions{2, 3}, 0, "link version 1 spoken here, versions 2 to 3 by the peer: upgrade this program"},
		{Versions{2, 3}, Versions{1, 1}, 0, "link versions 2 to 3 spoken here, version 1 by the peer: upgrade the peer"},
	} {
		got, err := negotiate(c.ours, c.peer)
		if c.words == "" {
			if got != c.want || err != nil {
				t.Errorf("%v with %v: %d, %v; want %d", c.ours, c.peer, got, err, c.want)
			}
			continue
		}
		var mismatch *VersionError
		if !errors.As(err, &mismatch) || err.Error() != c.words {
			t.Errorf("%v with %v: %v; want %q", c.ours, c.peer, err, c.words)
		}
	}
}
