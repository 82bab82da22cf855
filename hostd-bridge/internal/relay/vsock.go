package relay

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// serveVsock connects the client with a vsock port of a running VM: after the answer 101 the connection carries the
// port's bytes, both ways, until both sides have closed theirs.
func (r *Relay) serveVsock(w http.ResponseWriter, req *http.Request) error {
	port, err := strconv.ParseUint(req.PathValue("port"), 10, 32)
	if err != nil {
		return badRequest("invalid vsock port: " + err.Error())
	}
	if !strings.EqualFold(req.Header.Get("Upgrade"), hostapi.UpgradeVsock) {
		return badRequest("this needs the headers \"Connection: Upgrade\" and \"Upgrade: " + hostapi.UpgradeVsock + "\"")
	}
	m, err := r.inventory.Live(req.PathValue("moref"))
	if err != nil {
		return err
	}
	guest, err := m.Dial(req.Context(), uint32(port))
	if err != nil {
		return fmt.Errorf("cannot connect to vsock port %d of %s: %w", port, req.PathValue("moref"), err)
	}
	defer guest.Close()
	client, early, err := upgrade(w)
	if err != nil {
		return err
	}
	defer client.Close()
	defer context.AfterFunc(req.Context(), func() { // of a daemon that stops: the server knows nothing of the connection any more
		client.Close()
		guest.Close()
	})()
	splice(client, early, guest)
	return nil
}

// upgrade takes the connection over from the HTTP server and answers 101. early yields what the client has sent already
// and then what it will send.
func upgrade(w http.ResponseWriter) (client net.Conn, early io.Reader, err error) {
	client, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot take over the connection (HTTP/1.1 is needed): %w", err)
	}
	_, err = io.WriteString(client, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+hostapi.UpgradeVsock+"\r\n\r\n")
	if err != nil {
		return nil, nil, fmt.Errorf("cannot answer: %w", err)
	}
	if n := buf.Reader.Buffered(); n > 0 {
		head, _ := buf.Reader.Peek(n) // they are buffered
		return client, io.MultiReader(strings.NewReader(string(head)), client), nil
	}
	return client, client, nil
}

// splice copies both ways until both are done. The end of one way is passed on as a half-close, for TLS as close_notify;
// an error in one way ends both.
func splice(client net.Conn, fromClient io.Reader, guest net.Conn) {
	var ways sync.WaitGroup
	ways.Go(func() { pass(guest, fromClient, client) })
	ways.Go(func() { pass(client, guest, guest) })
	ways.Wait()
}

// pass copies from src, which belongs to the connection from, to dst.
func pass(dst net.Conn, src io.Reader, from net.Conn) {
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		from.Close()
		return
	}
	if half, ok := dst.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		return
	}
	dst.Close()
}
