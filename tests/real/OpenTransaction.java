import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.concurrent.TimeUnit;
import org.apache.pulsar.client.api.Consumer;
import org.apache.pulsar.client.api.Producer;
import org.apache.pulsar.client.api.PulsarClient;
import org.apache.pulsar.client.api.SubscriptionType;
import org.apache.pulsar.client.api.transaction.Transaction;

/**
 * Opens a transaction, prints "open", and ends it by the line on standard input: "commit" or "abort".
 * Pulsar's Python client has no transactions.
 *
 * <p>Arguments: SERVICE_URL TOPIC SUBSCRIPTION send|acknowledge COUNT.
 */
public class OpenTransaction {
    public static void main(String[] args) throws Exception {
        String topic = args[1];
        int count = Integer.parseInt(args[4]);
        try (PulsarClient client =
                PulsarClient.builder().serviceUrl(args[0]).enableTransaction(true).build()) {
            Transaction transaction =
                    client.newTransaction().withTransactionTimeout(10, TimeUnit.MINUTES).build().get();
            if (args[3].equals("send")) {
                try (Producer<byte[]> producer =
                        client.newProducer().topic(topic).enableBatching(false).create()) {
                    for (int i = 0; i < count; i++) {
                        producer.newMessage(transaction).value(new byte[100]).send();
                    }
                }
            } else {
                try (Consumer<byte[]> consumer =
                        client.newConsumer()
                                .topic(topic)
                                .subscriptionName(args[2])
                                .subscriptionType(SubscriptionType.Shared)
                                .subscribe()) {
                    for (int i = 0; i < count; i++) {
                        consumer.acknowledgeAsync(consumer.receive().getMessageId(), transaction).get();
                    }
                }
            }
            System.out.println("open");
            String end = new BufferedReader(new InputStreamReader(System.in)).readLine();
            if ("commit".equals(end)) {
                transaction.commit().get();
            } else {
                transaction.abort().get();
            }
            System.out.println("ended");
        }
    }
}
