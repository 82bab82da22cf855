package network

import (
	"fmt"
	"testing"

	"github.com/containervm/containervm/controller/internal/record"
)

// BenchmarkReserve is an endpoint for one more machine on a host that has many: a part of every start.
func BenchmarkReserve(b *testing.B) {
	for _, machines := range []int{10, 1000} {
		b.Run(fmt.Sprint(machines), func(b *testing.B) {
			h := newFakeHost()
			s := newService(b, h)
			for i := range machines {
				e, release, err := s.Reserve(nil, Want{})
				if err != nil {
					b.Fatal(err)
				}
				h.put(b, fmt.Sprint("vm", i), []record.Endpoint{e[0]})
				release()
			}
			for b.Loop() {
				_, release, err := s.Reserve(nil, Want{})
				if err != nil {
					b.Fatal(err)
				}
				release()
			}
		})
	}
}
