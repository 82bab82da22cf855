package api

import (
	"bufio"
	"context"
	"net"
	"net/http"

	"golang.org/x/net/websocket"

	"github.com/containervm/containervm/controller/internal/stream"
)

// attachWebSocket is attach for clients that can only speak WebSocket (RFC 6455): binary frames, both streams as one. A client cannot end its
// side alone: its close ends the attachment, and the process's standard input as attach does.
func (a *streamAPI) attachWebSocket(w http.ResponseWriter, r *http.Request) error {
	return a.attached(r, func(ctx context.Context, gone func(), at *stream.Attachment) (err error) {
		server := websocket.Server{Handler: func(conn *websocket.Conn) { // without a Handshake: whoever may open the socket may attach
			conn.PayloadType = websocket.BinaryFrame
			err = carry(ctx, at, &socketInput{conn: conn, gone: gone}, stream.NewSink(conn, true))
		}}
		server.ServeHTTP(takeable{w}, r) // closes the connection
		return err
	})
}

// socketInput reads what a client sends, and calls gone when it has closed its connection.
type socketInput struct {
	conn *websocket.Conn
	gone func()
}

func (s *socketInput) Read(p []byte) (int, error) {
	n, err := s.conn.Read(p)
	if err != nil {
		s.gone()
	}
	return n, err
}

// takeable is an answer whose connection package websocket can take over: it asks the value itself.
type takeable struct{ http.ResponseWriter }

// Hijack implements http.Hijacker.
func (t takeable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if a, ok := t.ResponseWriter.(*answer); ok {
		a.begun = true
	}
	return http.NewResponseController(t.ResponseWriter).Hijack()
}
