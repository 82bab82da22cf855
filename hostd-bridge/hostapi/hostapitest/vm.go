package hostapitest

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
)

// VM is a VM as far as its host's routes show it.
type VM struct {
	mu      sync.Mutex
	run     hostapi.Run // the present or last one
	on      bool
	log     []byte
	ports   map[uint32]Serve
	changed chan struct{} // closed and replaced at each change
}

// Serve plays the guest's end of a connection to a vsock port; the connection is closed when it returns.
type Serve func(net.Conn)

// PowerOn begins a run, whose marker stands in the log, and returns its number.
func (v *VM) PowerOn() (run hostapi.Run) {
	v.change(func() {
		v.run++
		v.on, run = true, v.run
		v.append(link.StreamRun, hostapi.Marker{Run: v.run}.String())
	})
	return run
}

// PowerOff ends the run.
func (v *VM) PowerOff() { v.change(func() { v.on = false }) }

// Log appends a record to the log.
func (v *VM) Log(stream link.RecordStream, text string) { v.change(func() { v.append(stream, text) }) }

// Listen serves a vsock port while the VM is on.
func (v *VM) Listen(port uint32, serve Serve) { v.change(func() { v.ports[port] = serve }) }

func (v *VM) append(stream link.RecordStream, text string) {
	v.log = link.AppendRecord(v.log, link.Record{Stream: stream, Time: time.Now(), Payload: []byte(text)})
}

func (v *VM) change(edit func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	edit()
	close(v.changed)
	v.changed = make(chan struct{})
}

// state is a VM at one moment.
type state struct {
	run     hostapi.Run
	on      bool
	log     []byte
	changed <-chan struct{}
}

func (v *VM) now() state {
	v.mu.Lock()
	defer v.mu.Unlock()
	return state{run: v.run, on: v.on, log: v.log[:len(v.log):len(v.log)], changed: v.changed}
}

func (v *VM) serveLog(w http.ResponseWriter, r *http.Request) {
	now := v.now()
	at, err := offset(r.FormValue(hostapi.ParamFrom), len(now.log))
	if err != nil {
		refuse(w, http.StatusBadRequest, "%v", err)
		return
	}
	run := hostapi.Run(0)
	if now.on {
		run = now.run
	}
	w.Header().Set(hostapi.HeaderLogOffset, strconv.Itoa(at))
	w.Header().Set(hostapi.HeaderLogRun, run.String())
	over := now.run
	if now.on {
		over--
	}
	w.Header().Set(hostapi.HeaderLogOver, over.String())
	flush := http.NewResponseController(w).Flush
	if flush() != nil {
		return
	}
	last, follow := now.run, r.FormValue(hostapi.ParamFollow) == hostapi.Yes
	wait := r.FormValue(hostapi.ParamWait) == hostapi.Yes && !now.on
	for {
		waits := wait && now.run == last
		if !waits && at < len(now.log) {
			n, err := w.Write(now.log[at:])
			if at += n; err != nil || flush() != nil {
				return
			}
		}
		if !waits && (!follow || !now.on) {
			return
		}
		select {
		case <-now.changed:
		case <-r.Context().Done():
			return
		}
		now = v.now()
	}
}

// offset reads ParamFrom; one behind the end is taken as it is.
func offset(from string, end int) (int, error) {
	switch from {
	case "":
		return 0, nil
	case hostapi.FromEnd:
		return end, nil
	}
	n, err := strconv.ParseUint(from, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("cannot begin at offset %q: %w", from, err)
	}
	return int(n), nil
}

func (v *VM) serveVsock(w http.ResponseWriter, r *http.Request) {
	port, err := strconv.ParseUint(r.PathValue("port"), 10, 32)
	if err != nil || !strings.EqualFold(r.Header.Get("Upgrade"), hostapi.UpgradeVsock) {
		refuse(w, http.StatusBadRequest, "want a port and the header Upgrade: %s", hostapi.UpgradeVsock)
		return
	}
	v.mu.Lock()
	on, serve := v.on, v.ports[uint32(port)]
	v.mu.Unlock()
	switch {
	case !on:
		refuse(w, http.StatusConflict, "the VM is off")
		return
	case serve == nil:
		refuse(w, http.StatusBadGateway, "nobody listens on port %d", port)
		return
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, http.StatusInternalServerError, "cannot take over the connection: %v", err)
		return
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", hostapi.UpgradeVsock)
	if err == nil { // else the client is gone
		serve(&guestEnd{Conn: conn, early: buf.Reader})
	}
}

// guestEnd is a connection whose first bytes may have come with the request.
type guestEnd struct {
	net.Conn
	early *bufio.Reader
}

func (g *guestEnd) Read(p []byte) (int, error) { return g.early.Read(p) }

// CloseWrite ends what the client reads.
func (g *guestEnd) CloseWrite() error {
	half, ok := g.Conn.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("cannot half-close a connection of type %T", g.Conn)
	}
	return half.CloseWrite()
}
