package hostapi

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// TestNames pins the words and numbers that both sides must know: a change here breaks every peer that is deployed.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"vendor", Vendor, "containerVM"},
		{"kernel key", KeyKernel, "cvm.boot.kernel"},
		{"initramfs key", KeyInitrd, "cvm.boot.initrd"},
		{"command line key", KeyCmdline, "cvm.boot.cmdline"},
		{"machine key", KeyMachine, "cvm.machine"},
		{"microvm", MachineMicroVM, "microvm"},
		{"q35", MachineQ35, "q35"},
		{"run key", KeyRun, "cvm.host.run"},
		{"exit key", KeyExit, "cvm.host.exit"},
		{"timeline key", KeyTimeline, "cvm.host.timeline"},
		{"net key", KeyNet, "cvm.net"},
		{"published key", KeyPublished, "cvm.host.published"},
		{"default network", DefaultNetwork, "VM Network"},
		{"cards", MaxCards, 4},
		{"first card", FirstCardKey, 4000},
		{"data disks", MaxDataDisks, 14},
		{"first disk", FirstDiskKey, 2000},
		{"disk serial", DiskSerial(3), "vol3"},
		{"tcp", TCP, "tcp"},
		{"udp", UDP, "udp"},
		{"networks", RouteNetworks, "/cvm/networks"},
		{"networks extension", ExtensionNetworks, "networks"},
		{"guest prefix", GuestPrefix, "guestinfo."},
		{"own prefix", ownPrefix, "cvm."},
		{"root disk", RootDisk, "root.vmdk"},
		{"log key", KeyLog, "cvm.log"},
		{"log", LogFile, "stdio.log"},
		{"log from an offset", LogFileAt(1 << 40), "stdio-00000001099511627776.log"},
		{"log from its beginning", LogFileAt(0), "stdio.log"},
		{"log's file size", DefaultLogBytes, 20000000},
		{"log's files", DefaultLogFiles, 5},
		{"log's least file size", int64(MinLogBytes), int64(131072)},
		{"console", ConsoleFile, "console.log"},
		{"boot index", BootIndex, "cvm/boot/current.json"},
		{"disk size", DiskBytes, 68719476736},
		{"inherited log", InheritedLog, 4194304},
		{"key limit", MaxExtraKey, 255},
		{"value limit", MaxExtraValue, 524288},
		{"extraConfig limit", MaxExtra, 8388608},
		{"answer limit", MaxAnswer, 1048576},
		{"boot index limit", MaxBootIndex, 65536},
		{"what a VM is in its networks", KeyNet, "cvm.net"},
		{"published ports", KeyPublished, "cvm.host.published"},
		{"default network", DefaultNetwork, "VM Network"},
		{"cards", MaxCards, 4},
		{"first card", FirstCardKey, 4000},
		{"settings limit", MaxNetworkSettings, 65536},
		{"networks", RouteNetworks, "/cvm/networks"},
		{"networks extension", ExtensionNetworks, "networks"},
		{"prefix", RoutePrefix, "/cvm/"},
		{"extensions", RouteExtensions, "/cvm/extensions"},
		{"pools", RoutePools, "/cvm/pools"},
		{"memory", RouteMemory, "/cvm/memory"},
		{"metrics", RouteMetrics, "/cvm/metrics"},
		{"vsock", RouteVsock, "/cvm/vsock"},
		{"log route", RouteLog, "/cvm/log"},
		{"upgrade", UpgradeVsock, "cvm-vsock"},
		{"offset header", HeaderLogOffset, "Cvm-Log-Offset"},
		{"run header", HeaderLogRun, "Cvm-Log-Run"},
		{"from", ParamFrom, "from"},
		{"follow", ParamFollow, "follow"},
		{"wait", ParamWait, "wait"},
		{"end", FromEnd, "end"},
		{"yes", Yes, "1"},
		{"disk at fork", ExtensionDiskAtFork, "diskAtFork"},
		{"log extension", ExtensionLog, "log"},
		{"vsock extension", ExtensionVsock, "vsock"},
		{"begun", MarkBegun, "begun"},
		{"prepared", MarkPrepared, "prepared"},
		{"loaded", MarkLoaded, "loaded"},
		{"resumed", MarkResumed, "resumed"},
		{"hello", MarkHello, "hello"},
		{"linked", MarkLinked, "linked"},
		{"first byte", MarkFirstByte, "firstByte"},
		{"run marker", Marker{Run: 7}.String(), "run 7"},
		{"fork's run marker", Marker{Run: 1, Fork: &ForkMarker{3, 12}}.String(), "run 1 fork 3 12"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
}

// TestJSON pins the documents, and that each is read as it is written.
func TestJSON(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	for _, c := range []struct {
		value any
		want  string
	}{
		{Extensions{[]string{"log"}}, `{"extensions":["log"]}`},
		{Pools{[]Pool{{"vm-1", 2, 3}}}, `{"pools":[{"template":"vm-1","prestarted":2,"want":3}]}`},
		{Machines{[]MachineMemory{{"vm-1", Memory{1, 2, 3}}}}, `{"machines":[{"vm":"vm-1","sharedKiB":1,"guestPrivateKiB":2,"overheadKiB":3}]}`},
		{Error{"no"}, `{"message":"no"}`},
		{BootFiles{Kernel: "k", KernelBz: "b", Initrd: "i", Blank: "d"}, `{"kernel":"k","kernelBz":"b","initrd":"i","blank":"d"}`},
		{BootFiles{"k", "b", "i", "d", "v"}, `{"kernel":"k","kernelBz":"b","initrd":"i","blank":"d","volume":"v"}`},
		{Exit{Run: 2, At: at, Orderly: true, Reason: "why"}, `{"run":2,"at":"2026-01-02T03:04:05.0000006Z","orderly":true,"reason":"why"}`},
		{Exit{Run: 2, At: at, ConsoleTail: "x"}, `{"run":2,"at":"2026-01-02T03:04:05.0000006Z","orderly":false,"reason":"","consoleTail":"x"}`},
		{[]Mark{{MarkBegun, at}}, `[{"name":"begun","at":"2026-01-02T03:04:05.0000006Z"}]`},
	} {
		data, err := json.Marshal(c.value)
		if err != nil || string(data) != c.want {
			t.Errorf("%T is %s (%v), want %s", c.value, data, err, c.want)
		}
		again := reflect.New(reflect.TypeOf(c.value))
		if err := json.Unmarshal(data, again.Interface()); err != nil || !reflect.DeepEqual(again.Elem().Interface(), c.value) {
			t.Errorf("%s is read as %+v (%v)", data, again.Elem(), err)
		}
	}
}

func TestDecodeBootFiles(t *testing.T) {
	boot, err := DecodeBootFiles([]byte(`{"kernel":"k","initrd":"i","blank":"b","new":1}`))
	if err != nil || boot != (BootFiles{Kernel: "k", Initrd: "i", Blank: "b"}) {
		t.Errorf("%+v, %v", boot, err)
	}
	for _, text := range []string{"", "{}", `{"kernel":"k","initrd":"i"}`, `[]`, `{"kernel":1}`} {
		if boot, err := DecodeBootFiles([]byte(text)); err == nil {
			t.Errorf("%q is read as %+v", text, boot)
		}
	}
}
