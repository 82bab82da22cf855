package image

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containervm/containervm/internal/testimage"
)

func TestImport(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	root := testimage.Layer(testimage.Entry{Name: "etc/"}, testimage.Entry{Name: "etc/hostname", Body: "x"})
	options := ImportOptions{Name: "root:1", Message: "made by hand", Changes: []string{`CMD ["sh"]`, "ENV A=b"}}
	var ids []digest.Digest
	for _, compress := range []func([]byte) []byte{func(b []byte) []byte { return b }, gzipped, zstandard} {
		id, err := s.Import(t.Context(), bytes.NewReader(compress(root)), options, ignore)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
		h.nothingLeft(s)
	}
	img, err := s.Resolve("root:1")
	if err != nil || img.ID != ids[2] {
		t.Fatalf("Resolve = %s, %v", img.ID, err)
	}
	if disks := h.disk(img.TopDisk); len(disks) != 1 || !bytes.Equal(disks[0], root) || len(h.layers()) != 1 {
		t.Errorf("%d disks for one layer", len(h.layers()))
	}
	if !slices.Equal(img.Config.Config.Cmd, []string{"sh"}) || !slices.Equal(img.Config.Config.Env, []string{"A=b"}) ||
		img.Config.History[0].Comment != "made by hand" || img.Config.OS != "linux" || img.Created.IsZero() {
		t.Errorf("configuration is %+v", img.Config)
	}
}

func TestImportRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		body    []byte
		options ImportOptions
		want    string
	}{
		"not a tar":  {body: testimage.Evil()["not a tar"], want: "cannot import"},
		"torn":       {body: testimage.Evil()["torn"], want: "cannot import"},
		"torn bzip2": {body: []byte("BZh91AY&SY"), want: "unexpected EOF"},
		"torn gzip":  {body: gzipped(testimage.Layer())[:20], want: "unexpected EOF"},
		"bad change": {body: testimage.Layer(), options: ImportOptions{Changes: []string{"RUN rm"}}, want: "run is not a valid change command"},
		"bad name":   {body: testimage.Layer(), options: ImportOptions{Name: "A B"}, want: "invalid reference format"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHost(t)
			s := newStore(t, h)
			_, err := s.Import(t.Context(), bytes.NewReader(c.body), c.options, ignore)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
			h.nothingLeft(s)
		})
	}
}

func TestImportOfBrokenStreamLeavesNothing(t *testing.T) {
	h := newFakeHost(t)
	s := newStore(t, h)
	body := io.MultiReader(bytes.NewReader(testimage.Layer(testimage.Entry{Name: "a"})[:512]), failing{})
	_, err := s.Import(t.Context(), body, ImportOptions{}, ignore)
	if err == nil || !strings.Contains(err.Error(), "the client left") {
		t.Errorf("error is %v", err)
	}
	h.nothingLeft(s)
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the client left") }

func TestApplyChanges(t *testing.T) {
	for change, want := range map[string]dockerspec.DockerOCIImageConfig{
		`CMD ["redis-server", "--port", "1"]`: {ImageConfig: ocispec.ImageConfig{Cmd: []string{"redis-server", "--port", "1"}}},
		`cmd echo "a  b"`:                     {ImageConfig: ocispec.ImageConfig{Cmd: []string{"/bin/sh", "-c", `echo "a  b"`}}},
		`ENTRYPOINT ["/init"]`:                {ImageConfig: ocispec.ImageConfig{Entrypoint: []string{"/init"}}},
		`ENV A=b C="d e" F=g\ h I='j"'`:       {ImageConfig: ocispec.ImageConfig{Env: []string{"A=b", "C=d e", "F=g h", `I=j"`}}},
		`ENV OLD the form of old`:             {ImageConfig: ocispec.ImageConfig{Env: []string{"OLD=the form of old"}}},
		`EXPOSE 80 53/UDP`:                    {ImageConfig: ocispec.ImageConfig{ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}}}},
		`LABEL a=b "c d"=e`:                   {ImageConfig: ocispec.ImageConfig{Labels: map[string]string{"a": "b", "c d": "e"}}},
		`VOLUME ["/data", "/x y"]`:            {ImageConfig: ocispec.ImageConfig{Volumes: map[string]struct{}{"/data": {}, "/x y": {}}}},
		`VOLUME /a /b`:                        {ImageConfig: ocispec.ImageConfig{Volumes: map[string]struct{}{"/a": {}, "/b": {}}}},
		`USER redis:redis`:                    {ImageConfig: ocispec.ImageConfig{User: "redis:redis"}},
		`WORKDIR /var/lib/redis`:              {ImageConfig: ocispec.ImageConfig{WorkingDir: "/var/lib/redis"}},
		`WORKDIR rel/../ative`:                {ImageConfig: ocispec.ImageConfig{WorkingDir: "/ative"}},
		`WORKDIR a b`:                         {ImageConfig: ocispec.ImageConfig{WorkingDir: "/a b"}},
		`EXPOSE 80-82/UDP 8080:90`:            {ImageConfig: ocispec.ImageConfig{ExposedPorts: map[string]struct{}{"80/udp": {}, "81/udp": {}, "82/udp": {}, "90/tcp": {}}}},
		"# no\nENV a=b\\\n c=$a/x\nLABEL l=${a}z m=${n:-o} p=${a:+q} r='$a' s=\\$a t=\"$a\"\n": {ImageConfig: ocispec.ImageConfig{
			Env: []string{"a=b", "c=/x"}, Labels: map[string]string{"l": "bz", "m": "o", "p": "q", "r": "$a", "s": "$a", "t": "b"}}},
		`ENTRYPOINT []`:     {ImageConfig: ocispec.ImageConfig{Entrypoint: []string{}}},
		`STOPSIGNAL SIGINT`: {ImageConfig: ocispec.ImageConfig{StopSignal: "SIGINT"}},
		`ONBUILD RUN x`:     {DockerOCIImageConfigExt: dockerspec.DockerOCIImageConfigExt{OnBuild: []string{"RUN x"}}},
		`HEALTHCHECK NONE`:  {DockerOCIImageConfigExt: dockerspec.DockerOCIImageConfigExt{Healthcheck: &dockerspec.HealthcheckConfig{Test: []string{"NONE"}}}},
		`HEALTHCHECK --interval=3s --retries=2 CMD curl localhost`: {DockerOCIImageConfigExt: dockerspec.DockerOCIImageConfigExt{
			Healthcheck: &dockerspec.HealthcheckConfig{Test: []string{"CMD-SHELL", "curl localhost"}, Interval: 3 * time.Second, Retries: 2}}},
	} {
		var got dockerspec.DockerOCIImageConfig
		if err := applyChanges(&got, []string{change}); err != nil {
			t.Errorf("%s: %v", change, err)
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", change, got, want)
		}
	}
	// Docker's words, of version 20.10.
	for change, want := range map[string]string{
		"": "file with no instructions", "# x": "file with no instructions", "CMD": "CMD requires at least one argument",
		`CMD ["a", 3]`: "when using JSON array syntax, arrays must be comprised of strings only", "RUN x": "run is not a valid change command",
		"ENV": "ENV requires at least one argument", "ENV A": "ENV must have two arguments", "ENV =b": "ENV names can not be blank",
		`ENV A="b`:                  `failed to process "\"b": unexpected end of statement while looking for matching double-quote`,
		"ENV a=b c":                 `Syntax error - can't find = in "c". Must be of the form: name=value`,
		"ENV a=${b":                 `failed to process "${b": syntax error: missing '}'`,
		"EXPOSE 70000":              "Invalid containerPort: 70000",
		"EXPOSE 0":                  "Invalid containerPort: 0",
		"EXPOSE 80/foo":             "Invalid proto: foo",
		"LABEL a":                   "LABEL must have two arguments",
		"USER":                      "USER requires exactly one argument",
		"VOLUME []":                 "VOLUME requires at least one argument",
		`VOLUME [""]`:               "VOLUME specified can not be an empty string",
		"ONBUILD FROM x":            "FROM isn't allowed as an ONBUILD trigger",
		"ONBUILD onbuild x":         "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
		"HEALTHCHECK x":             `Unknown type "x" in HEALTHCHECK (try CMD)`,
		"HEALTHCHECK CMD":           "Missing command after HEALTHCHECK CMD",
		"HEALTHCHECK NONE x":        "HEALTHCHECK NONE takes no arguments",
		"HEALTHCHECK --bad=1 CMD x": "Unknown flag: bad", "HEALTHCHECK --interval=1us CMD x": `Interval "interval" cannot be less than 1ms`,
		"HEALTHCHECK --retries=-1 CMD x": "--retries must be at least 1 (not -1)",
	} {
		var c dockerspec.DockerOCIImageConfig
		if err := applyChanges(&c, []string{change}); !errdefs.IsInvalidArgument(err) || err.Error() != want {
			t.Errorf("%q: error is %v, want %s", change, err, want)
		}
	}
	over := dockerspec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{Cmd: []string{"old"}, WorkingDir: "/a"}}
	if err := applyChanges(&over, []string{"ENTRYPOINT x", "WORKDIR b"}); err != nil || over.Cmd != nil || over.WorkingDir != "/a/b" {
		t.Errorf("%+v, %v", over, err)
	}
	if err := applyChanges(&over, []string{"CMD y", `ENTRYPOINT ["x"]`}); err != nil || len(over.Cmd) != 3 {
		t.Errorf("%+v, %v", over, err)
	}
	var c dockerspec.DockerOCIImageConfig
	if err := applyChanges(&c, []string{"ENV A=1", "ENV A=2 B=3"}); err != nil || !slices.Equal(c.Env, []string{"A=2", "B=3"}) {
		t.Errorf("Env = %q, %v", c.Env, err)
	}
}

func FuzzApplyChanges(f *testing.F) {
	for _, s := range []string{`CMD ["a"]`, `ENV A=b C="d e"`, `ENV A b`, `LABEL a='b`, "HEALTHCHECK --interval=3s CMD x", "EXPOSE 1/udp", "VOLUME /a /b", "ENV \t", "ENV \x00", "ENV a=${b:-c}$", "LABEL \\", `USER "$`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, change string) {
		var c dockerspec.DockerOCIImageConfig
		_ = applyChanges(&c, []string{change})
	})
}
