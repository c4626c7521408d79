//! Ctrl-C: the demo ends in order, whatever it is doing. A second one ends it at once.

use std::{process, thread};

use anyhow::{Result, bail};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Tells whether the user asked for the end.
#[derive(Clone, Debug)]
pub struct Interrupt {
    asked: watch::Sender<bool>,
}

impl Interrupt {
    /// Listens for Ctrl-C and SIGTERM, on a thread of its own: the main thread moves between network namespaces, and
    /// must have started no runtime by then.
    pub fn listen() -> Result<Self> {
        let interrupt = Self { asked: watch::Sender::new(false) };
        let told = interrupt.clone();
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupts, mut ends) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        thread::Builder::new().name("demo-interrupt".into()).spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupts.recv() => {}
                        _ = ends.recv() => {}
                    }
                    told.ask();
                }
            });
        })?;
        Ok(interrupt)
    }

    /// Asks for the end; the second time, it comes at once.
    pub fn ask(&self) {
        if self.asked.send_replace(true) {
            eprintln!("\nended at once; `cargo lab down` clears what is left");
            process::exit(130);
        }
    }

    /// Fails when the end was asked for.
    pub fn check(&self) -> Result<()> {
        if *self.asked.borrow() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Returns when the end is asked for.
    pub async fn asked(&self) {
        let mut asked = self.asked.subscribe();
        // The sender lives as long as this borrow, so waiting cannot fail.
        let _ = asked.wait_for(|asked| *asked).await;
    }
}
