package api

import (
	"net"
	"net/http"
	"testing"
)

// TestClientsOfOneUser: a user has so many connections, of which those that end make room, and takes none of another's.
func TestClientsOfOneUser(t *testing.T) {
	c := clients{users: map[net.Conn]uint32{}, most: 2}
	var conns []net.Conn
	come := func(user uint32) bool {
		one, other := net.Pipe()
		t.Cleanup(func() { one.Close(); other.Close() })
		conns = append(conns, one)
		return c.came(one, user)
	}
	if !come(1000) || !come(1000) || come(1000) || !come(1001) {
		t.Errorf("connections are %v", c.users)
	}
	c.changed(conns[2], http.StateClosed) // that there was no room for
	if come(1000) {
		t.Error("there is room for one more")
	}
	c.changed(conns[0], http.StateHijacked)
	c.changed(conns[1], http.StateClosed)
	if !come(1000) || !come(1000) || come(1000) {
		t.Errorf("connections are %v", c.users)
	}
	server := &http.Server{}
	Guard(server)
	if server.MaxHeaderBytes != maxHeader || server.IdleTimeout != idleTime || server.ConnState == nil || server.ConnContext == nil {
		t.Errorf("%+v", server)
	}
}
