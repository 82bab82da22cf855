package supervisor

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeQEMUArg begins the arguments of this test's program when it is started in QEMU's stead; the path of a control socket follows.
const fakeQEMUArg = "fake-qemu"

// Words of a test to its fake QEMU.
const (
	wordSave   = "save"   // lets one xen-save-devices-state return
	wordRefuse = "refuse" // lets one fail
	wordOff    = "off"    // the guest powers itself off
	wordKeep   = "keep"   // devices that are taken out stay
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == fakeQEMUArg {
		if err := fakeQEMU(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 2 && os.Args[1] == deafArg {
		if err := deafSupervisor(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// fakeQEMU maps the guest's memory, tells the control socket which QMP commands arrive, one a line, and answers all of them
// with success.
func fakeQEMU(socket string) error {
	control, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	var ram unix.Stat_t
	if err := unix.Fstat(RAMFD, &ram); err != nil {
		return err
	}
	if _, err := unix.Mmap(RAMFD, 0, int(ram.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return err
	}
	qmp, err := unixConn(os.NewFile(QMPFD, "qmp"))
	if err != nil {
		return err
	}
	from := &filesReader{conn: qmp, oob: make([]byte, unix.CmsgSpace(4*253))}
	var last atomic.Pointer[os.File] // that add-fd brought
	saves := make(chan bool, 8)
	var keep atomic.Bool
	go func() {
		for words := bufio.NewScanner(control); words.Scan(); {
			switch words.Text() {
			case wordSave, wordRefuse:
				saves <- words.Text() == wordSave
			case wordKeep:
				keep.Store(true)
				fmt.Fprintln(control, wordKeep)
			case wordOff:
				fmt.Fprintln(qmp, `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}`)
				os.Exit(0)
			}
		}
	}()
	fmt.Fprintln(qmp, `{"QMP": {"version": {}, "capabilities": []}}`)
	for commands := bufio.NewScanner(from); commands.Scan(); {
		var c struct {
			Execute   string `json:"execute"`
			Arguments struct {
				ID string `json:"id"`
			} `json:"arguments"`
			ID uint64 `json:"id"`
		}
		if err := json.Unmarshal(commands.Bytes(), &c); err != nil {
			return err
		}
		if n := len(from.files); n > 0 {
			last.Store(from.files[n-1])
		}
		fmt.Fprintln(control, c.Execute)
		answer := fmt.Sprintf("{\"return\": {}, \"id\": %d}", c.ID)
		switch c.Execute {
		case "xen-save-devices-state":
			go func() { // so that what arrives meanwhile is seen
				if !<-saves {
					fmt.Fprintf(qmp, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no space\"}, \"id\": %d}\n", c.ID)
					return
				}
				if _, err := last.Load().WriteString("state"); err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
				fmt.Fprintln(qmp, answer)
			}()
			continue
		case "device_del":
			if !keep.Load() {
				fmt.Fprintf(qmp, "{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": %q, \"path\": \"/machine\"}}\n", c.Arguments.ID)
			}
		case "system_reset":
			fmt.Fprintln(qmp, `{"event": "RESET"}`)
		}
		fmt.Fprintln(qmp, answer)
	}
	return nil
}

// fake is the test's side of a fake QEMU.
type fake struct {
	t        *testing.T
	control  net.Conn
	commands chan string // that arrived, without those of the start
	links    int         // changed before the CPUs ran
	runDir   string
	home     string
}

// says sends a word to the fake QEMU.
func (f *fake) says(word string) {
	f.t.Helper()
	if _, err := fmt.Fprintln(f.control, word); err != nil {
		f.t.Fatal(err)
	}
}

// awaits takes commands until the one that is named.
func (f *fake) awaits(command string) {
	f.t.Helper()
	for c := range f.commands {
		switch c {
		case command:
			return
		case "set_link":
			f.links++
		}
	}
	f.t.Fatalf("QEMU has ended before %s", command)
}

// newFake listens for a fake QEMU; its configuration starts one.
func newFake(t *testing.T) (Config, string, func() *fake) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	runDir := filepath.Join(dir, "run")
	cfg := Config{QEMU: self, CID: 77, MemoryMiB: 4, RootNode: "slot0", EmptySize: 1 << 30}
	if err := os.Mkdir(runDir, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "control")
	cfg.Args = []string{fakeQEMUArg, socket}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, runDir, func() *fake {
		defer l.Close()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		f := &fake{t: t, control: c, commands: make(chan string, 256)}
		go func() {
			defer close(f.commands)
			for lines := bufio.NewScanner(c); lines.Scan(); {
				f.commands <- lines.Text()
			}
		}()
		return f
	}
}
