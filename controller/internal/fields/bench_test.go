package fields

import (
	"encoding/json"
	"testing"

	"github.com/moby/moby/api/types/container"
)

// BenchmarkCreate is what the table costs a create, whose body is that of the stock client.
func BenchmarkCreate(b *testing.B) {
	body, err := json.Marshal(container.CreateRequest{Config: &container.Config{Image: "a", Cmd: []string{"b"}}, HostConfig: &container.HostConfig{NetworkMode: "default"}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var r container.CreateRequest
		table := Create()
		if err := json.Unmarshal(body, &r); err != nil {
			b.Fatal(err)
		}
		if _, err := table.Check(r); err != nil {
			b.Fatal(err)
		}
		if err := table.CheckKeys(body, r); err != nil {
			b.Fatal(err)
		}
	}
}
