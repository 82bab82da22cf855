package vsock

import (
	"testing"
	"testing/synctest"
)

// A writer waits for buffers, and the guest adds some. Before the guest looks whether a notification is wanted, another
// writer finds them and suppresses notifications: none comes, so that one must wake the first.
func TestWaitingWriterIsWokenByWhoFindsBuffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := NewDevice(false, silent())
		guest := newMuteDriver(t, dev)
		guest.boot(t)
		var streams [2]*stream
		dev.mu.Lock()
		for i := range streams {
			s := dev.addLocked(connKey{local: uint32(i + 1), peer: 5})
			s.state = s.state.after(eventAnswered)
			s.creditLocked(header{bufAlloc: 1 << 16})
			streams[i] = s
		}
		dev.mu.Unlock()
		written := make(chan error, 1)
		go func() {
			_, err := streams[0].Write([]byte("first"))
			written <- err
		}()
		synctest.Wait()
		if len(dev.out.waiting) != 1 {
			t.Fatal("the first writer does not wait for buffers")
		}
		r := &guest.rings[queueOut]
		guest.mu.Lock()
		for _, s := range r.free {
			guest.offer(r, s, testPayload, descWrite)
		}
		r.free = nil
		guest.mu.Unlock()
		if _, err := streams[1].Write([]byte("second")); err != nil {
			t.Fatal(err)
		}
		if guest.mu.Lock(); le.Uint16(guest.b[r.addrs.used:])&usedNoNotify == 0 {
			t.Error("the guest would notify: the test shows nothing")
		}
		guest.mu.Unlock()
		synctest.Wait()
		select {
		case err := <-written:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("the first writer waits on, although there are buffers")
		}
	})
}
