package e2e

import (
	"strings"
	"testing"
)

// ganeshaCommand is a real NFS server, versions 3 and 4, of a file system in its memory: what it serves goes with its container, and no test
// finds what another has left.
const ganeshaCommand = `set -e
mkdir -p /var/run/ganesha /var/lib/nfs/ganesha
cat >/tmp/ganesha.conf <<END
NFS_CORE_PARAM { Protocols = 3,4; NFS_Port = 2049; MNT_Port = 20048; mount_path_pseudo = true; Enable_NLM = false; Enable_RQUOTA = false; }
NFSV4 { Grace_Period = 5; Lease_Lifetime = 5; RecoveryBackend = fs; }
MEM { Inode_Size = 65536; }
EXPORT { Export_Id = 1; Path = /export; Pseudo = /export; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; FSAL { Name = MEM; } }
END
rpcbind -w
exec ganesha.nfsd -F -f /tmp/ganesha.conf -L /dev/stdout`

// testNFS mounts volumes of an NFS server, which is another container, by both versions, and has several containers write them at once.
func testNFS(t *testing.T, a *application) {
	h := a.h
	t.Cleanup(func() {
		h.Docker(t, "rm", "-f", "nfs", "wnfs3", "wnfs4")
		h.MustDocker(t, "volume", "rm", "-f", "nfs3", "nfs4", "gone")
	})
	h.MustDocker(t, "run", "-d", "--name", "nfs", "--network", "app", "-m", "256m", appImage, "sh", "-c", ganeshaCommand)
	waitLog(t, h, "nfs", "NFS SERVER INITIALIZED")
	address := a.address(t, "nfs")
	for name, o := range map[string]string{
		"nfs4": "addr=" + address + ",nfsvers=4,soft,timeo=100",
		"nfs3": "addr=" + address + ",nfsvers=3,nolock,soft,timeo=100,mountport=20048",
	} {
		h.MustDocker(t, "volume", "create", "--opt", "type=nfs", "--opt", "o="+o, "--opt", "device=:/export", name)
		h.MustDocker(t, "run", "-d", "--name", "w"+name, "--network", "app", "-v", name+":/mnt", appImage, "sh", "-c", "echo from "+name+" >/mnt/"+name+"; sync; sleep infinity")
	}
	for _, name := range []string{"nfs4", "nfs3"} {
		out := h.MustDocker(t, "run", "--rm", "--network", "app", "-v", name+":/mnt", appImage, "sh", "-c",
			"for n in 1 2 3 4 5 6 7 8 9; do [ -s /mnt/nfs3 ] && [ -s /mnt/nfs4 ] && break; sleep 1; done; cat /mnt/nfs3 /mnt/nfs4; stat -f -c %T /mnt")
		equal(t, "files that others wrote, by "+name, out, "from nfs3\nfrom nfs4\nnfs")
	}
	h.MustDocker(t, "rm", "-f", "wnfs3", "wnfs4")
	if r := h.Docker(t, "run", "--rm", "--network", "app", "--mount", "type=volume,src=gone,dst=/mnt,volume-driver=local,volume-opt=type=nfs,\"volume-opt=o=addr="+address+",nfsvers=4,soft,timeo=10,retrans=1\",volume-opt=device=:/nothing", appImage, "true"); r.Code == 0 || !strings.Contains(r.Stderr, "/nothing") {
		t.Errorf("an export that is not there: exit %d, %s", r.Code, r.Stderr)
	}
}
