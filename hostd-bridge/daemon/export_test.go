package daemon

import (
	"log/slog"

	"github.com/containervm/containervm/hostd-bridge/internal/vm"
)

// RealSwitches are switches as processes that run a program.
func RealSwitches(program string, log *slog.Logger) vm.Switches {
	return processes{program: program, log: log}
}
