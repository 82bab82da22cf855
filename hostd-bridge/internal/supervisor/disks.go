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
	Disk
	node    string
	leaving bool // QEMU was told to take it out
	gone    bool // QEMU has taken it out
}

func (d *dataDisk) device() string { return deviceOf(d.Unit) }

func deviceOf(unit int) string { return fmt.Sprintf("disk%d", unit) }

func newDataDisks(deleted <-chan string) dataDisks {
	return dataDisks{plugged: map[int]*dataDisk{}, deleted: deleted}
}

// hardware is which disks there are.
func (ds *dataDisks) hardware() (has []HardwareDisk) {
	for _, unit := range slices.Sorted(maps.Keys(ds.plugged)) {
		has = append(has, HardwareDisk{Unit: unit, ReadOnly: ds.plugged[unit].ReadOnly})
	}
	return has
}

// plug puts a disk into the machine.
func (ds *dataDisks) plug(ctx context.Context, q *qmp.Client, disk Disk) error {
	if disk.Unit < 1 || disk.Unit >= units || disk.Unit == controllerUnit {
		return fmt.Errorf("cannot plug in %s as unit %d: units are 1 to %d without %d", disk.Path, disk.Unit, units-1, controllerUnit)
	}
	if has, taken := ds.plugged[disk.Unit]; taken {
		return fmt.Errorf("cannot plug in %s: unit %d is %s", disk.Path, disk.Unit, has.Path)
	}
	node := ds.newNode(disk.Unit)
	if err := open(ctx, q, node, disk); err != nil {
		return fmt.Errorf("cannot plug in %s: %w", disk.Path, err)
	}
	// An error of the host's disk, such as a full one, is the guest's to handle: QEMU would stop the machine at it.
	device := map[string]any{"driver": "scsi-hd", "id": deviceOf(disk.Unit), "bus": SCSIBus + ".0", "scsi-id": 0, "lun": disk.Unit,
		"drive": node, "serial": hostapi.DiskSerial(disk.Unit), "werror": "report", "rerror": "report"}
	if err := q.Execute(ctx, "device_add", device, nil); err != nil {
		return errors.Join(fmt.Errorf("cannot plug in %s: %w", disk.Path, err), remove(ctx, q, node))
	}
	ds.plugged[disk.Unit] = &dataDisk{Disk: disk, node: node}
	return nil
}

func (ds *dataDisks) newNode(unit int) string {
	ds.last++
	return fmt.Sprintf("vol%d-%d", unit, ds.last)
}

// open opens a data disk as a node.
func open(ctx context.Context, q *qmp.Client, node string, disk Disk) error {
	add := func(name string) error { return q.Execute(ctx, "blockdev-add", DiskOptions(node, name), nil) }
	if !disk.ReadOnly {
		return openOnce(disk.Path, add)
	}
	options := DiskOptions(node, disk.Path) // others may have it open, too, and it is never forked
	options["read-only"] = true
	options["file"].(map[string]any)["read-only"] = true
	return q.Execute(ctx, "blockdev-add", options, nil)
}

// remove removes a block node.
func remove(ctx context.Context, q *qmp.Client, node string) error {
	return q.Execute(context.WithoutCancel(ctx), "blockdev-del", map[string]any{"node-name": node}, nil)
}

// unplug takes a disk out. One that is not let go keeps its unit, and may be taken out once more.
func (ds *dataDisks) unplug(ctx context.Context, q *qmp.Client, unit int, ended <-chan struct{}) error {
	d, ok := ds.plugged[unit]
	if !ok {
		return fmt.Errorf("cannot take out a disk: there is none with unit %d: %w", unit, syscall.ENODEV)
	}
	if !d.leaving {
		err := q.Execute(ctx, "device_del", map[string]string{"id": d.device()}, nil)
		var refused *qmp.Error
		d.leaving = !errors.As(err, &refused) // who gave up waiting for QEMU's answer has told it nevertheless
		if err != nil {
			return fmt.Errorf("cannot take out %s: %w", d.Path, err)
		}
	}
	if err := ds.awaitGone(ctx, d, ended); err != nil {
		return fmt.Errorf("cannot take out %s: %w", d.Path, err)
	}
	if err := remove(ctx, q, d.node); err != nil {
		return fmt.Errorf("cannot close %s: %w", d.Path, err)
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

// overlay is a delta that takes the place of a block node.
type overlay struct{ node, over, path string }

// put puts all deltas over their nodes, or none.
func put(ctx context.Context, q *qmp.Client, deltas []overlay) error {
	var actions []any
	err := func() error {
		for _, o := range deltas {
			err := openOnce(o.path, func(name string) error {
				options := DiskOptions(o.node, name)
				options["backing"] = nil // the one below is open already
				return q.Execute(ctx, "blockdev-add", options, nil)
			})
			if err != nil {
				return fmt.Errorf("cannot open delta %s: %w", o.path, err)
			}
			actions = append(actions, map[string]any{"type": "blockdev-snapshot", "data": map[string]string{"node": o.over, "overlay": o.node}})
		}
		if err := q.Execute(ctx, "transaction", map[string]any{"actions": actions}, nil); err != nil {
			return fmt.Errorf("cannot put deltas over the machine's disks: %w", err)
		}
		return nil
	}()
	if err == nil {
		return nil
	}
	for _, o := range deltas[:len(actions)] {
		err = errors.Join(err, remove(ctx, q, o.node))
	}
	return err
}

// fork has all that is written to the machine's disks from now on go to deltas.
func (m *machine) fork(ctx context.Context, to NewDisks) error {
	var deltas []overlay
	if to.Root != "" {
		node, err := m.slot.next()
		if err != nil {
			return err
		}
		deltas = append(deltas, overlay{node, m.slot.node, to.Root})
	}
	for unit, d := range m.disks.plugged {
		path, ok := to.Data[unit]
		if ok == d.ReadOnly {
			return fmt.Errorf("cannot fork %s: a disk that can be written to needs a delta, and no other has one", d.Path)
		}
		if ok {
			deltas = append(deltas, overlay{m.disks.newNode(unit), d.node, path})
		}
	}
	for unit, path := range to.Data {
		if _, ok := m.disks.plugged[unit]; !ok {
			return fmt.Errorf("cannot put %s over a disk: there is none with unit %d", path, unit)
		}
	}
	if len(deltas) == 0 {
		return nil
	}
	if err := put(ctx, m.qmp, deltas); err != nil {
		return err
	}
	for _, o := range deltas {
		if o.path == to.Root {
			m.slot.node, m.slot.path = o.node, o.path
			continue
		}
		for _, d := range m.disks.plugged {
			if d.node == o.over {
				d.node, d.Path = o.node, o.path
			}
		}
	}
	return nil
}

// plugAll plugs in a machine's disks at its start: those that the fork point of a child has before its state is loaded, for
// the state is theirs, too, and the others after that.
func (m *machine) plugAll(ctx context.Context, ofForkPoint bool) error {
	has := func(unit int) bool {
		return slices.ContainsFunc(m.cfg.Hardware.Disks, func(d HardwareDisk) bool { return d.Unit == unit })
	}
	for _, d := range m.id.Disks {
		if has(d.Unit) == ofForkPoint {
			if err := m.disks.plug(ctx, m.qmp, d); err != nil {
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
