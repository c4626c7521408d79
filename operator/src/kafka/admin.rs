//! The admin calls that rdkafka's safe API lacks. They and [`Client`] are the only `unsafe` of the operator.
//!
//! Requests are sent to one queue, each with a tag and a timeout of its own, and answered in any order by [`Admin::poll`].
//!
//! Invariants, on which every `unsafe` block here stands:
//! - `Admin` owns the [`Client`]; its handle is valid as long as `Admin` lives, and the queue is destroyed before it.
//! - What librdkafka's `*_new` returns is owned by a guard (`Owned`) that frees it once; requests copy their arguments.
//! - Pointers into an event are read only while the event lives, and everything that leaves this file is copied.
//! - Strings from librdkafka are NUL-terminated or null.
#![allow(unsafe_code)]

use std::{
    ffi::{CString, c_char, c_void},
    ptr,
    sync::Arc,
    time::Duration,
};

use rdkafka::{bindings as c, error::KafkaError, types::RDKafkaErrorCode};

use super::{
    Limits,
    answers::{
        Answer, Failure, GroupDescription, LARGEST_METADATA, MOST_ASSIGNED, MOST_MEMBERS,
        NO_LEADER, OffsetSpec, PartitionOffset, State, Topic,
    },
    client::{Client, string},
};

/// A client of one Kafka cluster for admin calls.
pub struct Admin {
    queue: *mut c::rd_kafka_queue_t,
    client: Client,
}

// SAFETY: librdkafka's handles and queues may be used from any thread; `Admin` is moved to one thread and stays there.
unsafe impl Send for Admin {}

impl Drop for Admin {
    fn drop(&mut self) {
        // SAFETY: the queue was made by `new` and is destroyed once, before the client that it belongs to.
        unsafe { c::rd_kafka_queue_destroy(self.queue) }
    }
}

/// Something of librdkafka's that is freed with `free`.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the pointer came from the matching `*_new` and is freed once.
            unsafe { (self.1)(self.0) }
        }
    }
}

impl Admin {
    /// A client of the brokers at these addresses. Nothing is sent yet.
    ///
    /// It is a consumer with a group, though it never joins one. Such a client looks for its group's coordinator, and that
    /// makes a new cluster set up its coordinators at all. And when the broker that is asked for offsets does not coordinate
    /// the group, librdkafka 2.12 tells the client's own group: without one it reads a null pointer
    /// (`rd_kafka_handle_OffsetFetch`). `group` is one that is followed, so that no further access is needed.
    ///
    /// # Errors
    /// When librdkafka does not take the settings.
    pub fn new(bootstrap_servers: &str, group: &str, limits: &Limits) -> Result<Self, KafkaError> {
        let client = Client::new(bootstrap_servers, group, limits)?;
        // SAFETY: the handle is valid: the client was just made.
        let queue = unsafe { c::rd_kafka_queue_new(client.handle()) };
        Ok(Self { queue, client })
    }

    /// The client: what it has learnt by its callbacks.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn handle(&self) -> *mut c::rd_kafka_t {
        self.client.handle()
    }

    fn options(
        &self,
        op: c::rd_kafka_admin_op_t,
        tag: u64,
        timeout: Duration,
    ) -> Owned<c::rd_kafka_AdminOptions_t> {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the handle is valid; the options are owned by the guard. The tag is carried as a number, never followed.
        unsafe {
            let options = c::rd_kafka_AdminOptions_new(self.handle(), op);
            c::rd_kafka_AdminOptions_set_request_timeout(options, millis, ptr::null_mut(), 0);
            c::rd_kafka_AdminOptions_set_opaque(options, tag as *mut c_void);
            Owned(options, c::rd_kafka_AdminOptions_destroy)
        }
    }

    /// Options of a request to one broker.
    ///
    /// All requests but [`Admin::list_offsets`] are such. Left alone, librdkafka 2.12 would look for the broker itself, and
    /// do it badly: topics are asked of the one that is called the controller, and of none other while it hangs; and when a
    /// group's coordinator comes back after a request to it timed out, librdkafka uses what it has freed, and aborts the
    /// process (confluentinc/librdkafka#4605, #5397).
    fn to_broker(
        &self,
        op: c::rd_kafka_admin_op_t,
        broker: i32,
        tag: u64,
        timeout: Duration,
    ) -> Owned<c::rd_kafka_AdminOptions_t> {
        let options = self.options(op, tag, timeout);
        // SAFETY: the options are live; without room for words none are written.
        unsafe { c::rd_kafka_AdminOptions_set_broker(options.0, broker, ptr::null_mut(), 0) };
        options
    }

    /// Asks for an end of each of these partitions: one request for each leader.
    pub fn list_offsets(
        &self,
        partitions: &[(Arc<str>, i32)],
        which: OffsetSpec,
        tag: u64,
        timeout: Duration,
    ) {
        let options =
            self.options(c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS, tag, timeout);
        // librdkafka's OffsetSpec: EARLIEST is -2, LATEST is -1.
        let list = list(partitions.iter().map(|(topic, partition)| {
            (&**topic, *partition, if which == OffsetSpec::Start { -2 } else { -1 })
        }));
        // SAFETY: options and list live until the call has copied them.
        unsafe {
            if let OffsetSpec::End { committed } = which {
                let level = if committed {
                    c::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED
                } else {
                    c::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED
                };
                free_error(c::rd_kafka_AdminOptions_set_isolation_level(options.0, level));
            }
            c::rd_kafka_ListOffsets(self.handle(), list.0, options.0, self.queue);
        }
    }

    /// Asks the group's coordinator for its committed offsets with their metadata.
    pub fn group_offsets(
        &self,
        group: &str,
        partitions: &[(Arc<str>, i32)],
        broker: i32,
        tag: u64,
        timeout: Duration,
    ) {
        let options = self.to_broker(
            c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS,
            broker,
            tag,
            timeout,
        );
        let list = list(partitions.iter().map(|(topic, partition)| (&**topic, *partition, -1001)));
        let group = text(group);
        // SAFETY: group and list are copied by `_new`; the request is owned by the guard until the call has copied it.
        unsafe {
            let mut request = Owned(
                c::rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), list.0),
                c::rd_kafka_ListConsumerGroupOffsets_destroy,
            );
            c::rd_kafka_ListConsumerGroupOffsets(
                self.handle(),
                &raw mut request.0,
                1,
                options.0,
                self.queue,
            );
        }
    }

    /// Commits offsets for a group without members, at its coordinator; a group with members refuses.
    pub fn alter_group_offsets(
        &self,
        group: &str,
        offsets: &[(&str, i32, i64)],
        broker: i32,
        tag: u64,
        timeout: Duration,
    ) {
        let options = self.to_broker(
            c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS,
            broker,
            tag,
            timeout,
        );
        let list = list(offsets.iter().copied());
        let group = text(group);
        // SAFETY: as in `group_offsets`.
        unsafe {
            let mut request = Owned(
                c::rd_kafka_AlterConsumerGroupOffsets_new(group.as_ptr(), list.0),
                c::rd_kafka_AlterConsumerGroupOffsets_destroy,
            );
            c::rd_kafka_AlterConsumerGroupOffsets(
                self.handle(),
                &raw mut request.0,
                1,
                options.0,
                self.queue,
            );
        }
    }

    /// Asks a broker for ids and partitions of topics. Topics that do not exist are not created.
    pub fn describe_topics(&self, names: &[&str], broker: i32, tag: u64, timeout: Duration) {
        let options = self.to_broker(
            c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
            broker,
            tag,
            timeout,
        );
        let names: Vec<CString> = names.iter().map(|name| text(name)).collect();
        let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: the names live until `_of_topic_names` has copied them; the collection is owned by the guard.
        unsafe {
            let collection = Owned(
                c::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
                c::rd_kafka_TopicCollection_destroy,
            );
            c::rd_kafka_DescribeTopics(self.handle(), collection.0, options.0, self.queue);
        }
    }

    /// Asks a broker who the brokers are.
    pub fn describe_cluster(&self, broker: i32, tag: u64, timeout: Duration) {
        let options = self.to_broker(
            c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER,
            broker,
            tag,
            timeout,
        );
        // SAFETY: the options live until the call has copied them.
        unsafe { c::rd_kafka_DescribeCluster(self.handle(), options.0, self.queue) }
    }

    /// Asks the group's coordinator for its state and members.
    pub fn describe_group(&self, group: &str, broker: i32, tag: u64, timeout: Duration) {
        let options = self.to_broker(
            c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
            broker,
            tag,
            timeout,
        );
        let group = text(group);
        let mut groups = [group.as_ptr()];
        // SAFETY: the name lives until the call has copied it.
        unsafe {
            c::rd_kafka_DescribeConsumerGroups(
                self.handle(),
                groups.as_mut_ptr(),
                1,
                options.0,
                self.queue,
            );
        }
    }

    /// Asks a broker for one of its settings.
    pub fn broker_settings(&self, broker: i32, tag: u64, timeout: Duration) {
        let options = self.to_broker(
            c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS,
            broker,
            tag,
            timeout,
        );
        let name = text(&broker.to_string());
        // SAFETY: the name is copied by `_new`; the resource is owned by the guard until the call has copied it.
        unsafe {
            let mut resource = Owned(
                c::rd_kafka_ConfigResource_new(
                    c::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_BROKER,
                    name.as_ptr(),
                ),
                c::rd_kafka_ConfigResource_destroy,
            );
            c::rd_kafka_DescribeConfigs(
                self.handle(),
                &raw mut resource.0,
                1,
                options.0,
                self.queue,
            );
        }
    }

    /// The cluster's id, once the first metadata has come. It does not wait.
    pub fn cluster_id(&self) -> Option<String> {
        // SAFETY: the handle is valid; the string is librdkafka's to free, after it was copied.
        unsafe {
            let id = c::rd_kafka_clusterid(self.handle(), 0);
            let copied = string(id);
            if !id.is_null() {
                c::rd_kafka_mem_free(self.handle(), id.cast());
            }
            copied
        }
    }

    /// Makes librdkafka ask for the brokers again, where it knows none. It does not wait for the answer: the client notes
    /// those that are announced.
    pub fn look_for_brokers(&self) {
        let mut metadata = ptr::null();
        // SAFETY: the handle is valid; the metadata is freed if there is one.
        unsafe {
            c::rd_kafka_metadata(self.handle(), 0, ptr::null_mut(), &raw mut metadata, 1);
            if !metadata.is_null() {
                c::rd_kafka_metadata_destroy(metadata);
            }
        }
    }

    /// The next answer with its tag, if one comes within `timeout`.
    pub fn poll(&self, setting: &str, timeout: Duration) -> Option<(u64, Result<Answer, Failure>)> {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is valid. The event is owned by the guard, and all that is read of it is copied before.
        unsafe {
            let event =
                Owned(c::rd_kafka_queue_poll(self.queue, millis), c::rd_kafka_event_destroy);
            if event.0.is_null() {
                return None;
            }
            let tag = c::rd_kafka_event_opaque(event.0) as u64;
            let code = c::rd_kafka_event_error(event.0);
            if code != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                let words = string(c::rd_kafka_event_error_string(event.0)).unwrap_or_default();
                return Some((tag, Err(Failure { code: code.into(), words })));
            }
            Some((tag, answer(event.0, setting)))
        }
    }
}

/// Reads an event that is no error.
///
/// # Safety
/// `event` is a live event of an admin call; each result is read only if the event is of its type (else it is null).
unsafe fn answer(event: *mut c::rd_kafka_event_t, setting: &str) -> Result<Answer, Failure> {
    // SAFETY: see above; arrays have the length that librdkafka says.
    unsafe {
        let mut count = 0;
        let result = c::rd_kafka_event_ListOffsets_result(event);
        if !result.is_null() {
            let infos = c::rd_kafka_ListOffsets_result_infos(result, &raw mut count);
            let offsets = (0..count).map(|n| {
                partition_offset(&*c::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(n)))
            });
            return Ok(Answer::Offsets(offsets.collect()));
        }
        let result = c::rd_kafka_event_ListConsumerGroupOffsets_result(event);
        if !result.is_null() {
            return group_result(
                c::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &raw mut count),
                count,
            );
        }
        let result = c::rd_kafka_event_AlterConsumerGroupOffsets_result(event);
        if !result.is_null() {
            return group_result(
                c::rd_kafka_AlterConsumerGroupOffsets_result_groups(result, &raw mut count),
                count,
            );
        }
        let result = c::rd_kafka_event_DescribeTopics_result(event);
        if !result.is_null() {
            let topics = c::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
            return Ok(Answer::Topics((0..count).map(|n| topic(*topics.add(n))).collect()));
        }
        let result = c::rd_kafka_event_DescribeConsumerGroups_result(event);
        if !result.is_null() {
            let groups = c::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count);
            if count == 0 {
                return Err(nothing("the group was not described"));
            }
            return group(*groups);
        }
        let result = c::rd_kafka_event_DescribeCluster_result(event);
        if !result.is_null() {
            let nodes = c::rd_kafka_DescribeCluster_result_nodes(result, &raw mut count);
            return Ok(Answer::Brokers(
                (0..count).map(|n| c::rd_kafka_Node_id(*nodes.add(n))).collect(),
            ));
        }
        let result = c::rd_kafka_event_DescribeConfigs_result(event);
        if !result.is_null() {
            let resources = c::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
            if count == 0 {
                return Ok(Answer::Setting(None));
            }
            let mut entries_count = 0;
            let entries = c::rd_kafka_ConfigResource_configs(*resources, &raw mut entries_count);
            let found = (0..entries_count).map(|n| *entries.add(n)).find(|entry| {
                string(c::rd_kafka_ConfigEntry_name(*entry)).as_deref() == Some(setting)
            });
            return Ok(Answer::Setting(
                found.and_then(|entry| string(c::rd_kafka_ConfigEntry_value(entry))),
            ));
        }
    }
    Err(nothing("an answer that nobody asked for"))
}

/// # Safety
/// `groups` has `count` live results.
unsafe fn group_result(
    groups: *mut *const c::rd_kafka_group_result_t,
    count: usize,
) -> Result<Answer, Failure> {
    if count == 0 {
        return Err(nothing("no group is in the answer"));
    }
    // SAFETY: there is at least one; its partitions live as long as it.
    unsafe {
        failure(c::rd_kafka_group_result_error(*groups)).map_or(Ok(()), Err)?;
        let list = c::rd_kafka_group_result_partitions(*groups);
        if list.is_null() {
            return Ok(Answer::Offsets(Vec::new()));
        }
        let elements = (0..usize::try_from((*list).cnt).unwrap_or(0))
            .map(|n| partition_offset(&*(*list).elems.add(n)));
        Ok(Answer::Offsets(elements.collect()))
    }
}

/// # Safety
/// The element's strings are live.
unsafe fn partition_offset(element: &c::rd_kafka_topic_partition_t) -> PartitionOffset {
    // SAFETY: metadata has the size that the element says, and is not necessarily NUL-terminated.
    let (topic, metadata) = unsafe {
        let metadata = (!element.metadata.is_null() && element.metadata_size <= LARGEST_METADATA)
            .then(|| {
                std::slice::from_raw_parts(element.metadata.cast::<u8>(), element.metadata_size)
            })
            .map(|bytes| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned());
        (string(element.topic).unwrap_or_default(), metadata)
    };
    let failed = element.err != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    let code: RDKafkaErrorCode = element.err.into();
    PartitionOffset {
        topic,
        partition: element.partition,
        // A failed broker is hidden as "no error" and a negative offset.
        offset: (!failed && element.offset >= 0).then_some(element.offset),
        metadata: metadata.filter(|text| !text.is_empty()),
        is_metadata_too_large: element.metadata_size > LARGEST_METADATA,
        failure: failed.then(|| Failure { code, words: code.to_string() }),
    }
}

/// # Safety
/// `description` is live.
unsafe fn topic(description: *const c::rd_kafka_TopicDescription_t) -> Topic {
    // SAFETY: what it points to lives as long as it.
    unsafe {
        let name = string(c::rd_kafka_TopicDescription_name(description)).unwrap_or_default();
        let described = if let Some(failure) =
            failure(c::rd_kafka_TopicDescription_error(description))
        {
            Err(failure)
        } else {
            let mut count = 0;
            let partitions = c::rd_kafka_TopicDescription_partitions(description, &raw mut count);
            let mut leaders = vec![NO_LEADER; count];
            for n in 0..count {
                let info = *partitions.add(n);
                let leader = c::rd_kafka_TopicPartitionInfo_leader(info);
                let number = usize::try_from(c::rd_kafka_TopicPartitionInfo_partition(info))
                    .unwrap_or(usize::MAX);
                if let (false, Some(slot)) = (leader.is_null(), leaders.get_mut(number)) {
                    *slot = c::rd_kafka_Node_id(leader);
                }
            }
            let id = c::rd_kafka_TopicDescription_topic_id(description);
            let id = if id.is_null() { None } else { string(c::rd_kafka_Uuid_base64str(id)) };
            Ok((id.unwrap_or_default(), leaders))
        };
        Topic { name, described }
    }
}

/// # Safety
/// `description` is live.
unsafe fn group(
    description: *const c::rd_kafka_ConsumerGroupDescription_t,
) -> Result<Answer, Failure> {
    use c::rd_kafka_consumer_group_state_t as state;
    // SAFETY: what it points to lives as long as it.
    unsafe {
        if let Some(failure) = failure(c::rd_kafka_ConsumerGroupDescription_error(description)) {
            // A group that never was has no members.
            if failure.code == RDKafkaErrorCode::GroupIdNotFound {
                return Ok(Answer::Group(GroupDescription {
                    state: State::Empty,
                    members: Vec::new(),
                    is_cut: false,
                }));
            }
            return Err(failure);
        }
        let state = match c::rd_kafka_ConsumerGroupDescription_state(description) {
            state::RD_KAFKA_CONSUMER_GROUP_STATE_EMPTY
            | state::RD_KAFKA_CONSUMER_GROUP_STATE_DEAD => State::Empty,
            state::RD_KAFKA_CONSUMER_GROUP_STATE_STABLE => State::Stable,
            state::RD_KAFKA_CONSUMER_GROUP_STATE_PREPARING_REBALANCE
            | state::RD_KAFKA_CONSUMER_GROUP_STATE_COMPLETING_REBALANCE => State::Rebalancing,
            _ => State::Other,
        };
        let count = c::rd_kafka_ConsumerGroupDescription_member_count(description);
        let mut assigned = 0_usize;
        let members = (0..count.min(MOST_MEMBERS)).map(|n| {
            let member = c::rd_kafka_ConsumerGroupDescription_member(description, n);
            let client =
                string(c::rd_kafka_MemberDescription_client_id(member)).unwrap_or_default();
            let assignment = c::rd_kafka_MemberDescription_assignment(member);
            let list = if assignment.is_null() {
                ptr::null()
            } else {
                c::rd_kafka_MemberAssignment_partitions(assignment)
            };
            let mut partitions = Vec::new();
            if !list.is_null() {
                let count = usize::try_from((*list).cnt).unwrap_or(0);
                assigned += count;
                for n in 0..if assigned > MOST_ASSIGNED { 0 } else { count } {
                    let element = &*(*list).elems.add(n);
                    partitions.push((string(element.topic).unwrap_or_default(), element.partition));
                }
            }
            (client, partitions)
        });
        let members = members.collect();
        let is_cut = count > MOST_MEMBERS || assigned > MOST_ASSIGNED;
        Ok(Answer::Group(GroupDescription { state, members, is_cut }))
    }
}

/// # Safety
/// `error` is null or live.
unsafe fn failure(error: *const c::rd_kafka_error_t) -> Option<Failure> {
    if error.is_null() {
        return None;
    }
    // SAFETY: it is not null, so it is live.
    unsafe {
        let code = c::rd_kafka_error_code(error);
        (code != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| Failure {
            code: code.into(),
            words: string(c::rd_kafka_error_string(error)).unwrap_or_default(),
        })
    }
}

/// # Safety
/// `error` is null or owned by the caller.
unsafe fn free_error(error: *mut c::rd_kafka_error_t) {
    if !error.is_null() {
        // SAFETY: owned by the caller, who gives it up.
        unsafe { c::rd_kafka_error_destroy(error) }
    }
}

/// A string for C. Kafka's names hold no NUL; one that does is cut there and then simply not found.
fn text(text: &str) -> CString {
    let end = text.bytes().position(|byte| byte == 0).unwrap_or(text.len());
    CString::new(text.as_bytes().get(..end).unwrap_or_default()).unwrap_or_default()
}

fn list<'a>(
    elements: impl Iterator<Item = (&'a str, i32, i64)>,
) -> Owned<c::rd_kafka_topic_partition_list_t> {
    // SAFETY: the list is owned by the guard; names are copied by `_add`, which returns a valid element.
    unsafe {
        let size = elements.size_hint().0.try_into().unwrap_or(0);
        let list = Owned(
            c::rd_kafka_topic_partition_list_new(size),
            c::rd_kafka_topic_partition_list_destroy,
        );
        // Partitions of one topic mostly follow each other.
        let mut last = ("", CString::default());
        for (topic, partition, offset) in elements {
            if topic != last.0 {
                last = (topic, text(topic));
            }
            (*c::rd_kafka_topic_partition_list_add(list.0, last.1.as_ptr(), partition)).offset =
                offset;
        }
        list
    }
}

fn nothing(words: &str) -> Failure {
    Failure { code: RDKafkaErrorCode::Unknown, words: words.to_owned() }
}
