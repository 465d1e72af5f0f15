//! The wasmtime engine: one for all components.

use wasmtime::component::Linker;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::guest::Guest;
use crate::interfaces;
use crate::limits;

/// Makes the engine. `memory_bytes_max` is the largest memory any component may have.
pub(crate) fn new(memory_bytes_max: usize) -> wasmtime::Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(limits::INSTANCES_MAX)
        .total_core_instances(limits::INSTANCES_MAX * 4)
        .total_memories(limits::INSTANCES_MAX * 2)
        .total_tables(limits::INSTANCES_MAX * 4)
        .total_stacks(limits::INSTANCES_MAX * 3)
        .max_core_instances_per_component(limits::CORE_INSTANCES_PER_COMPONENT)
        .max_memories_per_component(limits::MEMORIES_PER_COMPONENT)
        .max_tables_per_component(limits::TABLES_PER_COMPONENT)
        .max_memory_size(memory_bytes_max)
        .max_unused_warm_slots(limits::WARM_SLOTS_MAX)
        .linear_memory_keep_resident(limits::MEMORY_KEEP_RESIDENT)
        .table_keep_resident(limits::TABLE_KEEP_RESIDENT);
    let mut config = Config::new();
    config
        .wasm_component_model_async(true)
        .epoch_interruption(true)
        .async_stack_size(limits::ASYNC_STACK_BYTES)
        .max_wasm_stack(limits::WASM_STACK_BYTES)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// Everything any component may import.
pub(crate) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    for interface in interfaces::ALL {
        interface.link(&mut linker)?;
    }
    Ok(linker)
}

/// Ticks the engine's epoch from a thread of its own: a guest that loops yields at the next tick even
/// when every worker of the runtime is busy with guests that loop. Ends with the engine, not with
/// the host: a guest that still loops when the host goes would else never yield again, and the
/// runtime could not end.
pub(crate) fn tick(engine: &Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    std::thread::Builder::new()
        .name("epoch".into())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(limits::EPOCH_TICK);
            }
        })?;
    Ok(())
}
