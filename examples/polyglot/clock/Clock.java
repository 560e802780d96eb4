// Ticks every second, of all copies in the cluster the only one.
public class Clock {
    public static void main(String[] arguments) throws Exception {
        Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("stopping")));
        System.out.println("ticking on Java " + Runtime.version().feature());
        for (long tick = 1; ; tick++) {
            Thread.sleep(1000);
            System.out.println("tick " + tick);
        }
    }
}
