# Draws what programs draw, warms up, and draws again as soon as the machine is a fork.
import mmap, os, random, secrets, ssl, time, uuid

def hello():
    out = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="example.org")
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()[11:43].hex()

def helped():
    ssl.RAND_add(os.urandom(48), 48)
    return ssl.RAND_bytes(16).hex()

# As BoringSSL and the like notice that they are a copy.
MADV_WIPEONFORK = 18
page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
page.madvise(MADV_WIPEONFORK)

def marked():
    if page[:16] == bytes(16):
        page[:16] = os.urandom(16)
    return page[:16].hex()

draws = [("MADV_WIPEONFORK", marked), ("ssl.RAND_bytes", lambda: ssl.RAND_bytes(16).hex()), ("TLS hello", hello), ("random", lambda: str(random.getrandbits(128))),
         ("os.urandom", lambda: os.urandom(16).hex()), ("secrets", lambda: secrets.token_hex()), ("uuid4", lambda: str(uuid.uuid4())),
         ("ssl.RAND_bytes after RAND_add", helped)]

def generation():
    with open("/dev/cvm/generation", "rb", buffering=0) as f:
        return f.read(8)

for _, draw in draws:
    draw()
was = generation()
print("ready", flush=True)
while generation() == was:
    time.sleep(0.02)
for name, draw in draws:
    print("drew", name, "=", draw(), flush=True)
time.sleep(1000)
