//! One request of an instance wakes another one.
//!
//! In a component each request is a task of its own and sleeps in the host, so a waker that is called
//! within another task wakes nobody. What the component model offers is a stream between the two: it
//! carries nothing, and its reader hears when the writer goes. (wit-bindgen's `inter-task-wakeup` does
//! the same for every future and traps on wasmtime 48, see docs/decisions/0002.)

/// A bell and who listens to it: [`Ear::heard`] ends when the bell is dropped.
pub(crate) fn pair() -> (Bell, Ear) {
    imp::pair()
}

pub(crate) use imp::{Bell, Ear};

#[cfg(target_family = "wasm")]
mod imp {
    use std::alloc::Layout;

    use send_wrapper::SendWrapper;
    use wit_bindgen::{RawStreamReader, RawStreamWriter, StreamOps};

    #[link(wasm_import_module = "$root")]
    unsafe extern "C" {
        #[link_name = "[stream-new-unit]"]
        fn unit_new() -> u64;
        #[link_name = "[async-lower][stream-write-unit]"]
        fn unit_write(stream: u32, values: *const u8, count: usize) -> u32;
        #[link_name = "[async-lower][stream-read-unit]"]
        fn unit_read(stream: u32, values: *mut u8, count: usize) -> u32;
        #[link_name = "[stream-cancel-write-unit]"]
        fn unit_cancel_write(stream: u32) -> u32;
        #[link_name = "[stream-cancel-read-unit]"]
        fn unit_cancel_read(stream: u32) -> u32;
        #[link_name = "[stream-drop-writable-unit]"]
        fn unit_drop_writable(stream: u32);
        #[link_name = "[stream-drop-readable-unit]"]
        fn unit_drop_readable(stream: u32);
    }

    /// The component model's `stream` without an element type.
    #[derive(Clone, Copy)]
    struct Unit;

    // SAFETY: a `()` has no bytes, so nothing is ever read from or written to memory, and the
    // functions are the ones the component model has for this type.
    unsafe impl StreamOps for Unit {
        type Payload = ();

        fn new(&mut self) -> u64 {
            unsafe { unit_new() }
        }
        fn elem_layout(&self) -> Layout {
            Layout::new::<()>()
        }
        fn native_abi_matches_canonical_abi(&self) -> bool {
            true
        }
        fn contains_lists(&self) -> bool {
            false
        }
        unsafe fn lower(&mut self, (): (), _: *mut u8) {}
        unsafe fn dealloc_lists(&mut self, _: *mut u8) {}
        unsafe fn lift(&mut self, _: *mut u8) {}
        unsafe fn start_write(&mut self, stream: u32, values: *const u8, count: usize) -> u32 {
            unsafe { unit_write(stream, values, count) }
        }
        unsafe fn start_read(&mut self, stream: u32, values: *mut u8, count: usize) -> u32 {
            unsafe { unit_read(stream, values, count) }
        }
        unsafe fn cancel_read(&mut self, stream: u32) -> u32 {
            unsafe { unit_cancel_read(stream) }
        }
        unsafe fn cancel_write(&mut self, stream: u32) -> u32 {
            unsafe { unit_cancel_write(stream) }
        }
        unsafe fn drop_readable(&mut self, stream: u32) {
            unsafe { unit_drop_readable(stream) }
        }
        unsafe fn drop_writable(&mut self, stream: u32) {
            unsafe { unit_drop_writable(stream) }
        }
    }

    /// Rings when it is dropped.
    pub(crate) struct Bell {
        _writer: SendWrapper<RawStreamWriter<Unit>>,
    }

    /// Hears one bell.
    pub(crate) struct Ear(SendWrapper<RawStreamReader<Unit>>);

    pub(super) fn pair() -> (Bell, Ear) {
        // SAFETY: both ends were made a moment ago and are nobody else's.
        let (writer, reader) = unsafe { wit_bindgen::rt::async_support::raw_stream_new(Unit) };
        let _writer = SendWrapper::new(writer);
        (Bell { _writer }, Ear(SendWrapper::new(reader)))
    }

    impl Ear {
        pub(crate) async fn heard(mut self) {
            // Nothing is ever written: what is read is the end.
            SendWrapper::new(self.0.next()).await;
        }
    }
}

#[cfg(not(target_family = "wasm"))]
mod imp {
    use tokio::sync::oneshot;

    /// Rings when it is dropped.
    pub(crate) struct Bell {
        _sender: oneshot::Sender<()>,
    }

    /// Hears one bell.
    pub(crate) struct Ear(oneshot::Receiver<()>);

    pub(super) fn pair() -> (Bell, Ear) {
        let (_sender, receiver) = oneshot::channel();
        (Bell { _sender }, Ear(receiver))
    }

    impl Ear {
        pub(crate) async fn heard(self) {
            // Nothing is ever sent: the error is the bell.
            let _ = self.0.await;
        }
    }
}
