package container

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/controller/internal/guest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// userHZ is the kernel's unit of CPU time towards user space (include/asm-generic/param.h).
const userHZ = 100

// topTitles are the columns of "ps -ef", which Docker shows when none are asked for.
var topTitles = []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}

// Top lists a container's processes. psArgs other than "-ef" are refused: the list comes from the tether, not from a ps.
func (s *Service) Top(ctx context.Context, ref, psArgs string) (container.TopResponse, error) {
	var top container.TopResponse
	if psArgs != "" && strings.Trim(psArgs, "-") != "ef" {
		return top, notImplemented("arguments of ps other than -ef are not supported: the list of processes comes from the containerVM's tether")
	}
	c, err := s.GetRunning(ref)
	if err != nil {
		return top, err
	}
	var res *tetherv1.ProcessesResponse
	if err := s.calls.Call(ctx, c.VM.Ref, func(ctx context.Context, t tetherv1.TetherService) (err error) {
		res, err = t.Processes(ctx, &tetherv1.ProcessesRequest{})
		return err
	}); err != nil {
		return top, guest.Failed(err, "cannot list the processes of %s", &c)
	}
	top.Titles = topTitles
	for _, p := range res.GetProcesses() {
		top.Processes = append(top.Processes, topLine(p, time.Now()))
	}
	return top, nil
}

func topLine(p *tetherv1.ProcessInfo, now time.Time) []string {
	started := time.Unix(0, p.GetStartUnixNano())
	cpu := time.Duration(p.GetCpuTicks()) * time.Second / userHZ
	share := 0
	if age := now.Sub(started); age > 0 {
		share = int(100 * cpu / age)
	}
	begun := started.UTC().Format("15:04")
	if now.Sub(started) > 24*time.Hour {
		begun = started.UTC().Format("Jan02")
	}
	tty := p.GetTty()
	if tty == "" {
		tty = "?"
	}
	seconds := int(cpu.Seconds())
	return []string{
		guest.Printable(p.GetUser()), strconv.Itoa(int(p.GetPid())), strconv.Itoa(int(p.GetPpid())), strconv.Itoa(share), begun, tty,
		fmt.Sprintf("%02d:%02d:%02d", seconds/3600, seconds/60%60, seconds%60), guest.Printable(p.GetCommand()),
	}
}
