package supervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/hostd-bridge/internal/qemu/qmp"
)

// SCSIBus is QEMU's ID of the controller of the data disks; its bus has that name with ".0".
const SCSIBus = "scsi"

const (
	// unplugTimeout is how long QEMU and the guest may take to let a disk go. With virtio-scsi QEMU does not ask the guest.
	unplugTimeout = 10 * time.Second
	// units are the unit numbers of a SCSI bus; 0 is not given, and vSphere's controller has 7.
	units, controllerUnit = 16, 7
)

// dataDisks are a machine's disks beside its root disk, by unit. They belong to the machine's owner.
type dataDisks struct {
	plugged map[int]*dataDisk
	deleted <-chan string // devices that are gone, by QEMU's IDs
	last    int           // number of the newest node
}

type dataDisk struct {
	opened
	unit     int
	readOnly bool
	leaving  bool // QEMU was told to take it out
	gone     bool // QEMU has taken it out
}

func (d *dataDisk) device() string { return deviceOf(d.unit) }

func deviceOf(unit int) string { return fmt.Sprintf("disk%d", unit) }

func newDataDisks(deleted <-chan string) dataDisks {
	return dataDisks{plugged: map[int]*dataDisk{}, deleted: deleted}
}

// hardware is which disks there are.
func (ds *dataDisks) hardware() (has []HardwareDisk) {
	for _, unit := range slices.Sorted(maps.Keys(ds.plugged)) {
		has = append(has, HardwareDisk{Unit: unit, ReadOnly: ds.plugged[unit].readOnly})
	}
	return has
}

// plugIn puts a disk into the machine.
func (m *machine) plugIn(ctx context.Context, disk Disk) error {
	ds, name := &m.disks, disk.Image.Name
	if disk.Unit < 1 || disk.Unit >= units || disk.Unit == controllerUnit {
		return fmt.Errorf("cannot plug in %s as unit %d: units are 1 to %d without %d", name, disk.Unit, units-1, controllerUnit)
	}
	if has, taken := ds.plugged[disk.Unit]; taken {
		return fmt.Errorf("cannot plug in %s: unit %d is %s", name, disk.Unit, has.name)
	}
	n, err := m.sets.open(ctx, m.qmp, ds.newNode(disk.Unit), disk.Image, disk.ReadOnly, m.running())
	if err != nil {
		return fmt.Errorf("cannot plug in %s: %w", name, err)
	}
	// An error of the host's disk, such as a full one, is the guest's to handle: QEMU would stop the machine at it.
	device := map[string]any{"driver": "scsi-hd", "id": deviceOf(disk.Unit), "bus": SCSIBus + ".0", "scsi-id": 0, "lun": disk.Unit,
		"drive": n.name, "serial": hostapi.DiskSerial(disk.Unit), "werror": "report", "rerror": "report"}
	if err := m.qmp.Execute(ctx, "device_add", device, nil); err != nil {
		return errors.Join(fmt.Errorf("cannot plug in %s: %w", name, err), m.sets.close(ctx, m.qmp, m.running(), n))
	}
	ds.plugged[disk.Unit] = &dataDisk{opened: opened{name, []node{n}}, unit: disk.Unit, readOnly: disk.ReadOnly}
	return nil
}

func (ds *dataDisks) newNode(unit int) string {
	ds.last++
	return fmt.Sprintf("vol%d-%d", unit, ds.last)
}

// takeOut takes a disk out. One that is not let go keeps its unit, and may be taken out once more.
func (m *machine) takeOut(ctx context.Context, unit int) error {
	ds := &m.disks
	d, ok := ds.plugged[unit]
	if !ok {
		return fmt.Errorf("cannot take out a disk: there is none with unit %d: %w", unit, syscall.ENODEV)
	}
	if !d.leaving {
		err := m.qmp.Execute(ctx, "device_del", map[string]string{"id": d.device()}, nil)
		var refused *qmp.Error
		d.leaving = !errors.As(err, &refused) // who gave up waiting for QEMU's answer has told it nevertheless
		if err != nil {
			return fmt.Errorf("cannot take out %s: %w", d.name, err)
		}
	}
	if err := ds.awaitGone(ctx, d, m.qemu.ended); err != nil {
		return fmt.Errorf("cannot take out %s: %w", d.name, err)
	}
	if err := m.sets.close(ctx, m.qmp, m.running(), d.nodes...); err != nil {
		return fmt.Errorf("cannot close %s: %w", d.name, err)
	}
	delete(ds.plugged, unit)
	return nil
}

// awaitGone waits until QEMU has taken a disk out.
func (ds *dataDisks) awaitGone(ctx context.Context, d *dataDisk, ended <-chan struct{}) error {
	over := time.NewTimer(unplugTimeout)
	defer over.Stop()
	for !d.gone {
		select {
		case id := <-ds.deleted:
			for _, of := range ds.plugged {
				of.gone = of.gone || of.leaving && of.device() == id
			}
		case <-over.C:
			return fmt.Errorf("the guest does not let it go within %v", unplugTimeout)
		case <-ended:
			return errEnded
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// overlay is a delta that takes the place of a disk's first node.
type overlay struct {
	node string // that it becomes
	over *opened
	by   Image
}

// put puts all deltas over their disks, or none.
func (m *machine) put(ctx context.Context, deltas []overlay) error {
	var actions []any
	var nodes []node
	err := func() error {
		for _, o := range deltas {
			opened, err := m.sets.open(ctx, m.qmp, o.node, o.by, false, m.running()) // over nothing: the one below is open already
			if err != nil {
				return fmt.Errorf("cannot open delta %s: %w", o.by.Name, err)
			}
			nodes = append(nodes, opened)
			over := o.over.nodes[0].name
			actions = append(actions, map[string]any{"type": "blockdev-snapshot", "data": map[string]string{"node": over, "overlay": o.node}})
		}
		if err := m.qmp.Execute(ctx, "transaction", map[string]any{"actions": actions}, nil); err != nil {
			return fmt.Errorf("cannot put deltas over the machine's disks: %w", err)
		}
		return nil
	}()
	if err != nil {
		return errors.Join(err, m.sets.close(ctx, m.qmp, m.running(), nodes...))
	}
	for n, o := range deltas {
		o.over.name, o.over.nodes = o.by.Name, append([]node{nodes[n]}, o.over.nodes...)
	}
	return nil
}

// fork has all that is written to the machine's disks from now on go to deltas.
func (m *machine) fork(ctx context.Context, to NewDisks) error {
	deltas, err := m.overlays(to)
	if err != nil || len(deltas) == 0 {
		return err
	}
	return m.put(ctx, deltas)
}

// overlays says which delta goes over which disk.
func (m *machine) overlays(to NewDisks) (deltas []overlay, _ error) {
	if to.Root.Levels > 0 {
		if !m.slot.filled {
			return nil, errors.New("cannot put a delta over the root slot's disk: it is empty")
		}
		deltas = append(deltas, overlay{m.slot.newNode(), &m.slot.has, to.Root})
	}
	for unit, d := range m.disks.plugged {
		delta, ok := to.Data[unit]
		if ok == d.readOnly {
			return nil, fmt.Errorf("cannot fork %s: a disk that can be written to needs a delta, and no other has one", d.name)
		}
		if ok {
			deltas = append(deltas, overlay{m.disks.newNode(unit), &d.opened, delta})
		}
	}
	for unit, delta := range to.Data {
		if _, ok := m.disks.plugged[unit]; !ok {
			return nil, fmt.Errorf("cannot put %s over a disk: there is none with unit %d", delta.Name, unit)
		}
	}
	return deltas, nil
}

// plugAll plugs in a machine's disks at its start: those that the fork point of a child has before its state is loaded, for
// the state is theirs, too, and the others after that.
func (m *machine) plugAll(ctx context.Context, ofForkPoint bool) error {
	has := func(unit int) bool {
		return slices.ContainsFunc(m.cfg.Hardware.Disks, func(d HardwareDisk) bool { return d.Unit == unit })
	}
	for _, d := range m.id.Disks {
		if has(d.Unit) == ofForkPoint {
			if err := m.plugIn(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkDisks says which disk of its fork point a child lacks, or has otherwise.
func (m *machine) checkDisks() error {
	for _, d := range m.cfg.Hardware.Disks {
		at := slices.IndexFunc(m.id.Disks, func(own Disk) bool { return own.Unit == d.Unit })
		if at < 0 || m.id.Disks[at].ReadOnly != d.ReadOnly {
			return fmt.Errorf("cannot start the machine: its fork point has a data disk with unit %d (read-only: %v), and it has none", d.Unit, d.ReadOnly)
		}
	}
	return nil
}
