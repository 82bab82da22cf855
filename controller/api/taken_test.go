package api

import (
	"bufio"
	"io"
	"net/http"
	"testing"
	"time"
)

// A client that reads the answer's head by a buffered reader, and then goes on without it, has all of the output.
func TestOutputWaitsForHead(t *testing.T) {
	server, client := unixPair(t)
	const head = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	if _, err := io.WriteString(server, head); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(&hijacked{Conn: server, early: emptyReader()}, "output")
		server.Close()
		sent <- err
	}()
	select {
	case err := <-sent:
		t.Fatalf("output was sent while the head was unread: %v", err)
	case <-time.After(20 * time.Millisecond): // time to do it wrong in
	}
	buffered := bufio.NewReader(client)
	answer, err := http.ReadResponse(buffered, nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", answer, err)
	}
	if n := buffered.Buffered(); n > 0 {
		t.Errorf("%d bytes of output came with the head", n)
	}
	output, err := io.ReadAll(client)
	if string(output) != "output" || err != nil {
		t.Errorf("output %q, %v", output, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// A client that does not read gets what there is all the same, in the end.
func TestOutputOfHeadThatIsNotTaken(t *testing.T) {
	server, client := unixPair(t)
	if _, err := io.WriteString(server, "head "); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(&hijacked{Conn: server, early: emptyReader()}, "output"); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if all, err := io.ReadAll(client); string(all) != "head output" || err != nil {
		t.Errorf("%q, %v", all, err)
	}
}
