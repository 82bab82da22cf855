package vm

// RootPool is the moref value of the resource pool that holds all others.
const RootPool = "resgroup-root"

// Pool is a resource pool at one moment; like a VM it is never changed once it is published.
type Pool struct {
	Ref    string `json:"-"`
	Name   string `json:"name"`
	Parent string `json:"parent"` // moref value; empty for the root
	CPU    Limits `json:"cpu"`    // MHz
	Memory Limits `json:"memory"` // MiB; Limit is enforced at power-on
}

// Limits are the settings of a resource allocation.
type Limits struct {
	Reservation int64 `json:"reservation"`
	Limit       int64 `json:"limit"` // Unlimited: none
	Shares      int32 `json:"shares"`
}

// Unlimited is the Limit that sets none, as in vSphere's ResourceAllocationInfo.
const Unlimited = -1

// Check says what is wrong with a pool's name and limits.
func (p *Pool) Check() error {
	if err := CheckName(p.Name); err != nil {
		return err
	}
	for _, l := range []Limits{p.CPU, p.Memory} {
		if l.Limit < Unlimited || l.Reservation < 0 || (l.Limit >= 0 && l.Reservation > l.Limit) {
			return &ArgumentError{Property: "limit", Why: "a limit is -1 or at least the reservation, which is not negative"}
		}
	}
	return nil
}
