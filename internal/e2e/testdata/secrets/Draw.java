// As draw.py.
import java.nio.ByteBuffer;
import java.nio.file.*;
import java.security.SecureRandom;
import java.util.*;
import java.util.concurrent.Callable;
import javax.net.ssl.*;

public class Draw {
    static String hex(byte[] b) { return HexFormat.of().formatHex(b); }

    static String of(SecureRandom r) {
        byte[] b = new byte[16];
        r.nextBytes(b);
        return hex(b);
    }

    static String hello() throws Exception {
        SSLEngine e = SSLContext.getDefault().createSSLEngine();
        e.setUseClientMode(true);
        ByteBuffer out = ByteBuffer.allocate(e.getSession().getPacketBufferSize());
        e.wrap(ByteBuffer.allocate(0), out);
        return hex(Arrays.copyOfRange(out.array(), 11, 43));
    }

    static byte[] generation() throws Exception { return Files.readAllBytes(Path.of("/dev/cvm/generation")); }

    public static void main(String[] args) throws Exception {
        SecureRandom usual = new SecureRandom(), drbg = SecureRandom.getInstance("DRBG"), sha1 = SecureRandom.getInstance("SHA1PRNG");
        Random plain = new Random();
        Map<String, Callable<String>> draws = new LinkedHashMap<>();
        draws.put("SecureRandom", () -> of(usual));
        draws.put("SecureRandom DRBG", () -> of(drbg));
        draws.put("SecureRandom SHA1PRNG", () -> of(sha1));
        draws.put("UUID.randomUUID", () -> UUID.randomUUID().toString());
        draws.put("Random", () -> Long.toString(plain.nextLong()));
        draws.put("TLS hello", Draw::hello);
        for (Callable<String> d : draws.values()) d.call();
        byte[] was = generation();
        System.out.println("ready");
        while (Arrays.equals(generation(), was)) Thread.sleep(20);
        for (Map.Entry<String, Callable<String>> d : draws.entrySet()) System.out.println("drew " + d.getKey() + " = " + d.getValue().call());
        Thread.sleep(1000000);
    }
}
