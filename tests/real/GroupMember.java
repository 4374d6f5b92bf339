import java.io.BufferedReader;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.InputStreamReader;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.message.RequestHeaderData;
import org.apache.kafka.common.message.StreamsGroupHeartbeatRequestData;
import org.apache.kafka.common.message.StreamsGroupHeartbeatResponseData;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Joins a share group or a streams group, prints "joined", and leaves at the first line on standard
 * input. No library for Python can do either; Kafka Streams itself would need many more jars.
 *
 * <p>Arguments: HOST:PORT GROUP TOPIC share|streams.
 */
public class GroupMember {
    private static final short STREAMS_GROUP_HEARTBEAT = 88;

    public static void main(String[] args) throws Exception {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        if (args[3].equals("share")) {
            share(args[0], args[1], args[2], input);
        } else {
            streams(args[0], args[1], args[2], input);
        }
    }

    private static void share(String server, String group, String topic, BufferedReader input)
            throws Exception {
        Map<String, Object> settings =
                Map.of(
                        "bootstrap.servers", server,
                        "group.id", group,
                        "key.deserializer", ByteArrayDeserializer.class,
                        "value.deserializer", ByteArrayDeserializer.class);
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", server));
                KafkaShareConsumer<byte[], byte[]> consumer = new KafkaShareConsumer<>(settings)) {
            consumer.subscribe(List.of(topic));
            while (!stable(admin, group)) { // a busy broker takes its time
                consumer.poll(Duration.ofMillis(200));
            }
            System.out.println("joined");
            input.readLine();
        }
    }

    private static boolean stable(Admin admin, String group) throws Exception {
        for (GroupListing listing : admin.listGroups().all().get()) {
            if (listing.groupId().equals(group)) {
                return listing.groupState().equals(Optional.of(GroupState.STABLE));
            }
        }
        return false;
    }

    private static void streams(String server, String group, String topic, BufferedReader input)
            throws Exception {
        String member = UUID.randomUUID().toString();
        int colon = server.lastIndexOf(':');
        try (Socket socket =
                new Socket(
                        server.substring(0, colon), Integer.parseInt(server.substring(colon + 1)))) {
            int epoch = heartbeat(socket, group, topic, member, 0);
            System.out.println("joined");
            while (!input.ready()) {
                Thread.sleep(500);
                epoch = heartbeat(socket, group, topic, member, epoch);
            }
            heartbeat(socket, group, topic, member, -1);
        }
    }

    private static int heartbeat(Socket socket, String group, String topic, String member, int epoch)
            throws Exception {
        StreamsGroupHeartbeatRequestData data =
                new StreamsGroupHeartbeatRequestData()
                        .setGroupId(group)
                        .setMemberId(member)
                        .setMemberEpoch(epoch)
                        .setRebalanceTimeoutMs(10_000);
        if (epoch == 0) {
            data.setProcessId(member)
                    .setActiveTasks(List.of())
                    .setStandbyTasks(List.of())
                    .setWarmupTasks(List.of())
                    .setTopology(
                            new StreamsGroupHeartbeatRequestData.Topology()
                                    .setEpoch(1)
                                    .setSubtopologies(
                                            List.of(
                                                    new StreamsGroupHeartbeatRequestData.Subtopology()
                                                            .setSubtopologyId("0")
                                                            .setSourceTopics(List.of(topic)))));
        }
        RequestHeaderData header =
                new RequestHeaderData()
                        .setRequestApiKey(STREAMS_GROUP_HEARTBEAT)
                        .setRequestApiVersion((short) 0)
                        .setCorrelationId(1)
                        .setClientId("group-member");
        ByteBuffer head = bytes(header, (short) 2);
        ByteBuffer body = bytes(data, (short) 0);
        DataOutputStream out = new DataOutputStream(socket.getOutputStream());
        out.writeInt(head.remaining() + body.remaining());
        out.write(head.array(), 0, head.remaining());
        out.write(body.array(), 0, body.remaining());
        out.flush();
        DataInputStream in = new DataInputStream(socket.getInputStream());
        byte[] answer = new byte[in.readInt()];
        in.readFully(answer);
        ByteBuffer rest = ByteBuffer.wrap(answer, 5, answer.length - 5); // correlation id, tagged fields
        StreamsGroupHeartbeatResponseData response =
                new StreamsGroupHeartbeatResponseData(new ByteBufferAccessor(rest), (short) 0);
        if (response.errorCode() != 0) {
            throw new IllegalStateException(response.errorCode() + ": " + response.errorMessage());
        }
        return response.memberEpoch();
    }

    private static ByteBuffer bytes(Message message, short version) {
        ObjectSerializationCache cache = new ObjectSerializationCache();
        ByteBuffer buffer = ByteBuffer.allocate(message.size(cache, version));
        message.write(new ByteBufferAccessor(buffer), cache, version);
        buffer.flip();
        return buffer;
    }
}
