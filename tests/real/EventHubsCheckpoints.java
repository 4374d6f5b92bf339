import com.azure.messaging.eventhubs.checkpointstore.blob.BlobCheckpointStore;
import com.azure.messaging.eventhubs.models.Checkpoint;
import com.azure.messaging.eventhubs.models.PartitionOwnership;
import com.azure.storage.blob.BlobContainerClientBuilder;
import java.util.List;

/**
 * The blob checkpoint store of the Java SDK, for one consumer group.
 *
 * Arguments: connection string, container, namespace, hub, group; then "own", "list", or
 * "write PARTITION NUMBER OFFSET".
 */
public final class EventHubsCheckpoints {
    public static void main(String[] args) {
        var store = new BlobCheckpointStore(
            new BlobContainerClientBuilder().connectionString(args[0]).containerName(args[1]).buildAsyncClient());
        switch (args[5]) {
            case "write" -> store.updateCheckpoint(new Checkpoint()
                .setFullyQualifiedNamespace(args[2]).setEventHubName(args[3]).setConsumerGroup(args[4])
                .setPartitionId(args[6]).setSequenceNumber(Long.valueOf(args[7]))
                .setOffsetString(args[8])).block();
            case "own" -> store.claimOwnership(List.of(new PartitionOwnership()
                .setFullyQualifiedNamespace(args[2]).setEventHubName(args[3]).setConsumerGroup(args[4])
                .setPartitionId("0").setOwnerId("java-1"))).collectList().block();
            default -> store.listCheckpoints(args[2], args[3], args[4]).toIterable().forEach(found ->
                System.out.println(found.getPartitionId() + " " + found.getSequenceNumber() + " "
                    + found.getOffsetString()));
        }
        System.exit(0);
    }
}
