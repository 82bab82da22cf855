package e2e

import (
	"testing"

	"github.com/containervm/containervm/internal/vmtest"
)

// TestHost runs everything that leaves its host in order on one host.
func TestHost(t *testing.T) {
	h := loaded(t, vmtest.Options{Fork: true}) // the first containers boot, until the template is there
	runAll(t, h, []hostTest{
		{"Echo", testEcho},
		{"ExitCodes", testExitCodes},
		{"Streams", testStreams},
		{"BigOutput", testBigOutput},
		{"BigInput", testBigInput},
		{"ProcessOptions", testProcessOptions},
		{"Limits", testLimits},
		{"Network", testNetwork},
		{"Networks", testNetworks},
		{"ForkNetwork", testForkNetwork},
		{"Connect", testConnect},
		{"System", testSystem},
		{"Lifecycle", testLifecycle},
		{"Kill", testKill},
		{"StopKills", testStopKills},
		{"LogsFollow", testLogsFollow},
		{"LogsBounded", testLogsBounded},
		{"LogDriverNone", testLogDriverNone},
		{"StdinBeyondTheEnd", testStdinBeyondTheEnd},
		{"ExecRaw", testExecRaw},
		{"DiskIsKept", testDiskIsKept},
		{"Exec", testExec},
		{"Attach", testAttach},
		{"CreateStart", testCreateStart},
		{"Terminal", testTerminal("docker")},
		{"ExecTerminal", testExecTerminal},
		{"Signals", testSignals},
		{"Layers", testLayers},
		{"Import", testImport},
		{"Pull", testPull},
		{"ImagesOut", testImagesOut},
		{"InterruptedLoad", testInterruptedLoad},
		{"CVM", testCVM},
		{"CVMTerminal", testTerminal("cvm")},
		{"Govc", testGovc},
		{"GovcNeedsPassword", testGovcNeedsPassword},
		{"Redis", testRedis},
		{"BadRequests", testBadRequests},
		{"BadRuns", testBadRuns},
		{"FullDisk", testFullDisk},
		{"GuestPanic", testGuestPanic},
		{"ClientDisconnects", testClientDisconnects},
		{"MaliciousImages", testMaliciousImages},
		{"MachineKilled", testMachineKilled},
		{"List", testList},
		{"Usage", testUsage},
		{"DownAndUp", testDownAndUp}, // last: the host restarts
	})
}
